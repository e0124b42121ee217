"""Runs one of the field's editors on a loaded model: EasyEdit's functions by their own hparams, or our small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kedit_glue import moments as second
from kedit_glue.methods import AT_SUBJECT, METHODS
from kedit_glue.tools import Emit, easyedit_compat
from kedit_glue.tools.easyedit import NAME

MODULES = {
    "ft_l": "ft",
    "ft_m": "ft",
    "adalora": "lora",
    "rome": "rome",
    "memit": "memit",
    "emmet": "emmet",
    "mend": "mend",
}
"""Method -> EasyEdit's module below ``models``."""
HPARAMS = {
    "ft_l": "FTHyperParams",
    "ft_m": "FTHyperParams",
    "adalora": "LoRAHyperParams",
    "rome": "ROMEHyperParams",
    "memit": "MEMITHyperParams",
    "emmet": "EMMETHyperParams",
    "mend": "MENDHyperParams",
}
ONLY_MAIN = tuple(name for name, method in METHODS.items() if method.by == "checkout")
"""What EasyEdit's package lacks: a checkout of its main is used where there is one."""
LEFT = ("ft_m", "adalora")
"""Methods that find an answer's tokens by counting padding in front; the others count from the row's beginning."""

Requests = Sequence[Mapping[str, Any]]


def marked(requests: Requests) -> list[dict[str, Any]]:
    """Requests with ``{}`` in the subject's place, its first: rome_main.py:80 marks every one, and fails on two."""
    return [{**r, "prompt": r["prompt"].replace(r["subject"], "{}", 1)} for r in requests]


class Moments(dict[str, Any]):
    """Module -> C0 = mean of x xᵀ over a text's tokens, float32."""

    @cached_property
    def inverses(self) -> dict[str, Any]:
        """Module -> the inverse of C0."""
        import torch

        return {name: torch.inverse(moment.double()).float() for name, moment in self.items()}


def load_moments(statistics: Mapping[str, Any], device: str) -> Moments:
    """Second moments with the ridge, which is in shares of their mean eigenvalue.

    ``statistics``: what the stage ``editing.moments`` wrote.
    """
    import torch

    found = Moments()
    for module, file in statistics["files"].items():
        size = statistics["inputs"][module]
        tokens, total = second.read(Path(file), size)
        moment = torch.from_numpy(total).to(device) / tokens
        found[module] = moment + statistics["ridge"] * moment.trace() / size * torch.eye(size, device=moment.device)
    return found


@contextmanager
def replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, a module has this function in its own one's place."""
    upstream = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, upstream)


class Editor:
    """One method on one loaded model."""

    def __init__(
        self, method: str, model: Any, tokenizer: Any, hparams: Mapping[str, Any], device: str, checkout: str | None,
        emit: Emit,
    ):  # fmt: skip
        self.method, self.model, self.tokenizer, self.emit = method, model, tokenizer, emit
        self.device = device
        self.own = method in ONLY_MAIN and checkout is None
        self.checkout = checkout if method in ONLY_MAIN else None
        if self.checkout:
            easyedit_compat.forget()
        self.hparams = self._hparams(hparams)
        tokenizer.padding_side = "left" if method in LEFT else "right"
        if method in ("ft_l", "ft_m"):
            # ft_main.py:117 learns the padding of shorter answers, unless it is this token
            tokenizer.unk_token = tokenizer.pad_token

    def _hparams(self, hparams: Mapping[str, Any]) -> Any:
        given = {**hparams, "model_name": NAME}
        if self.own:
            return SimpleNamespace(**given)
        kind = getattr(easyedit_compat.editor(MODULES[self.method], self.checkout), HPARAMS[self.method])
        return kind(**given)

    def edit(self, requests: Requests, moments: Moments) -> Any:
        """The model with the requests edited in, all at once where the method can."""
        if self.method == "ft_m" and self.own:
            from kedit_glue.tools import ft_m

            return ft_m.edit(self.model, self.tokenizer, requests, self.hparams, self.emit)
        requests = marked(requests) if self.method in AT_SUBJECT else list(requests)
        with easyedit_compat.on_device(self.device) as number:
            self.hparams.device = number
            return getattr(self, f"_{self.method}")(requests, moments)

    # -- EasyEdit's own ---------------------------------------------------------------------------

    def _module(self, name: str) -> Any:
        return easyedit_compat.editor(name, self.checkout)

    def _ft_l(self, requests: Requests, moments: Moments) -> Any:
        module = self._module("ft")
        with self._passes(module), self._told(requests):
            return module.apply_ft_to_model(self.model, self.tokenizer, requests, self.hparams)[0]

    _ft_m = _ft_l

    def _adalora(self, requests: Requests, moments: Moments) -> Any:
        module = self._module("lora")
        passes = self.hparams.num_steps * -(-len(requests) // self.hparams.batch_size)
        apart = easyedit_compat.padding_of_its_own(self.tokenizer)
        with apart, easyedit_compat.adalora_steps(module, passes), self._passes(module), self._told(requests):
            edited = module.apply_lora_to_model(self.model, self.tokenizer, requests, self.hparams)[0]
        return edited.merge_and_unload()

    def _rome(self, requests: Requests, moments: Moments) -> Any:
        """One after another: it writes one fact at a time."""
        module = self._module("rome")
        u = easyedit_compat.submodule("rome", "compute_u", self.checkout)
        u.inv_mom2_cache = {(NAME, name): inverse for name, inverse in moments.inverses.items()}
        keys = easyedit_compat.submodule("rome", "repr_tools", self.checkout)
        for position, request in enumerate(requests, 1):
            with easyedit_compat.float32_keys(keys), self._told([request]):
                module.apply_rome_to_model(self.model, self.tokenizer, [request], self.hparams)
            self.emit({"event": "editing", "position": position, "of": len(requests), "unit": "facts edited"})
        return self.model

    def _memit(self, requests: Requests, moments: Moments) -> Any:
        module = self._module("memit")
        module.COV_CACHE = {(NAME, name): moment for name, moment in moments.items()}
        with easyedit_compat.layers_give_tuples(module), self._counted(module, len(requests)), self._told(requests):
            return module.apply_memit_to_model(self.model, self.tokenizer, requests, self.hparams)[0]

    def _emmet(self, requests: Requests, moments: Moments) -> Any:
        if not self.own:
            module = self._module("emmet")
            module.COV_CACHE = {(NAME, name): moment for name, moment in moments.items()}
            with self._counted(module, len(requests)), self._told(requests):  # main knows that layers give tensors
                return module.apply_emmet_to_model(self.model, self.tokenizer, requests, self.hparams)[0]
        from kedit_glue.tools import emmet

        memit = self._module("memit")
        with easyedit_compat.layers_give_tuples(memit), self._counted(memit, len(requests)), self._told(requests):
            return emmet.edit(self.model, self.tokenizer, requests, self.hparams, memit, moments)

    def _mend(self, requests: Requests, moments: Moments) -> Any:
        from kedit_glue.tools import learned

        with self._told(requests):
            for done in learned.edit(self._module("mend"), self.model, self.tokenizer, requests, self.hparams):
                self.emit({"event": "editing", "position": done, "of": len(requests), "unit": "facts edited"})
        return self.model

    # -- around it --------------------------------------------------------------------------------

    @contextmanager
    def _counted(self, module: Any, of: int) -> Iterator[None]:
        """Each value that is searched is an event."""
        search: Callable[..., Any] = module.compute_z
        done = 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            found = search(*args, **kwargs)
            done += 1
            self.emit({"event": "editing", "position": done, "of": of, "unit": "values found"})
            return found

        with replaced(module, "compute_z", counted):
            yield

    @contextmanager
    def _passes(self, module: Any) -> Iterator[None]:
        """Each pass over the facts is an event as it begins.

        ft_main.py:110 and lora_main.py:110 only print where they are; as a pass begins they split prompts and answers
        with ``chunks``, one call each.
        """
        split: Callable[..., Any] = module.chunks
        calls = 0

        def chunks(*args: Any) -> Any:
            nonlocal calls
            if calls % 2 == 0:
                of = self.hparams.num_steps
                self.emit({"event": "editing", "position": calls // 2, "of": of, "unit": "passes"})
            calls += 1
            return split(*args)

        with replaced(module, "chunks", chunks):
            yield

    @contextmanager
    def _told(self, requests: Requests) -> Iterator[None]:
        """What an editor cannot do is told with the fact that it could not do it for."""
        try:
            yield
        except (AssertionError, IndexError, KeyError, ValueError) as error:
            of = requests[0]["id"] if len(requests) == 1 else f"{requests[0]['id']} … {requests[-1]['id']}"
            raise RuntimeError(f"{self.method} failed on {of}: {type(error).__name__}: {error}") from error
