"""How LLaMA-Factory is made to train a model that is in memory already, and to leave it there.

Upstream: ``llamafactory`` 0.9.5. Its ``run_exp`` takes callbacks, but neither a model nor a way not to save one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KNOWN = frozenset(
    {
        *("config", "pretrained_model_name_or_path", "torch_dtype", "low_cpu_mem_usage", "device_map"),
        *("trust_remote_code", "cache_dir", "revision", "token"),
    }
)
"""What ``load_model`` asks transformers with for a plain model (``model/loader.py:156-158``, ``model/patcher.py``)."""
AS_IT_RUNS = frozenset({"use_cache", "dtype", "torch_dtype", "_name_or_path", "transformers_version"})
"""Of a configuration what does not make another model."""


@contextmanager
def in_memory(model: Any, folder: Path, make: Callable[[], Any]) -> Iterator[list[Any]]:
    """Inside, ``run_exp`` trains what ``make`` gives where it would load ``folder``, and saves nothing.

    ``model``: what ``folder`` holds, loaded. Yields the list of the models that were trained. Where the YAML asks for
    another model, or the same in another form (another attention, quantized), LLaMA-Factory loads that itself.

    ``model/loader.py:176`` calls ``from_pretrained`` of the class that it imported by name, and goes on to prepare what
    it gets (``patch_model``, ``init_adapter``): so what comes back here is prepared as a loaded one is.
    ``train/sft/workflow.py:137`` saves the tuned model whatever ``save_strategy`` says.
    """
    from llamafactory.model import loader
    from llamafactory.train.sft import workflow

    upstream, trainer = loader.AutoModelForCausalLM, workflow.CustomSeq2SeqTrainer
    trained: list[Any] = []

    class Given(upstream):  # type: ignore[misc,valid-type]
        @classmethod
        def from_pretrained(cls, **asked: Any) -> Any:
            if is_the_same(asked, model.config, folder):
                found = make()
                found.config.use_cache = asked["config"].use_cache
            else:
                found = upstream.from_pretrained(**asked)
            trained.append(found)
            return found

    class Unsaved(trainer):  # type: ignore[misc,valid-type]
        def save_model(self, *args: Any, **kwargs: Any) -> None:
            """The tuned model stays where it is."""

    loader.AutoModelForCausalLM, workflow.CustomSeq2SeqTrainer = Given, Unsaved
    try:
        yield trained
    finally:
        loader.AutoModelForCausalLM, workflow.CustomSeq2SeqTrainer = upstream, trainer


def is_the_same(asked: Mapping[str, Any], config: Any, folder: Path) -> bool:
    """Whether ``from_pretrained(**asked)`` would give a model with ``config`` that was loaded from ``folder``."""
    wanted = asked["config"]
    attention = getattr(wanted, "_attn_implementation", None)
    return (
        asked.keys() <= KNOWN
        and asked["torch_dtype"] == "auto"
        and Path(asked["pretrained_model_name_or_path"]).resolve() == folder.resolve()
        and attention in (None, getattr(config, "_attn_implementation", None))
        and _form(wanted) == _form(config)
    )


def _form(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in AS_IT_RUNS}
