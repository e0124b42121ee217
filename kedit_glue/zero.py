"""R-SFT under DeepSpeed's engine (ZeRO 0 to 2), through public hooks alone.

accelerate's ``backward`` steps the engine as well (accelerate 1.11.0, utils/deepspeed.py:281), and its optimizer's own
``step`` and ``zero_grad`` do nothing. So what R-SFT does to an optimizer is done here to the one inside the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NOT_FOUND = "DeepSpeed's engine did not run the model: this version of it works in another way (0.19.8 was tried)"


class Zero:
    """The engine that wraps ``model``, found when the model first runs; ``idle`` says that nobody has to learn."""

    def __init__(self, model: torch.nn.Module, optimizer: Any, idle: Callable[[], bool]):
        self.model, self.idle = model, idle
        self.engine: Any = None
        while hasattr(optimizer, "optimizer"):  # accelerate's, ZeRO's, then torch's
            optimizer = optimizer.optimizer
        optimizer.register_step_pre_hook(self._leave_out)
        # callbacks are handed the bare model only (transformers 5.6.0, trainer.py)
        self.search = torch.nn.modules.module.register_module_forward_pre_hook(self._find)
        model.register_state_dict_post_hook(_shared_once)

    def _find(self, module: torch.nn.Module, inputs: Any) -> None:
        if getattr(module, "module", None) is self.model:
            self.engine = module
            self.search.remove()

    def wrapper(self) -> Any:
        """The engine; raises RuntimeError where the model runs without one."""
        if self.engine is None:
            raise RuntimeError(NOT_FOUND)
        return self.engine

    def _leave_out(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Before a step: with ``grad is None`` AdamW neither decays a weight nor moves a moment."""
        if self.idle():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def step(self, loss: torch.Tensor) -> None:
        """Backward, the average over the processes, clipping, the optimizer's step."""
        self.engine.backward(loss)
        self.engine.step()

    def change(self, apply: Callable[[], None]) -> None:
        """``apply`` changes the trained parameters: ZeRO's in float32, and from them those that the model runs with."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

        trained = [p for p in self.model.parameters() if p.requires_grad]
        running = [p.data for p in trained]
        for parameter in trained:
            if (whole := safe_get_full_fp32_param(parameter)) is not None:
                parameter.data = whole
        apply()
        for parameter, data in zip(trained, running, strict=True):
            if parameter.data is not data:
                safe_set_full_fp32_param(parameter, parameter.data)
                data.copy_(parameter.data)
                parameter.data = data


def _shared_once(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Of tensors that share memory the first stays: accelerate copies each before saving (utils/other.py), which would
    write an output matrix that is tied to the embeddings a second time.
    """
    seen = set()
    for name, tensor in list(state.items()):
        if torch.is_tensor(tensor):
            where = (tensor.data_ptr(), tensor.shape, tensor.stride())
            if where in seen:
                del state[name]
            seen.add(where)
