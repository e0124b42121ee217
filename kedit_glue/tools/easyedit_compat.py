"""Everything that has to be bent to run EasyEdit's own evaluation here, each with its reason.

Upstream: the PyPI package ``easyeditor`` 0.0.1.dev0 (October 2023), or a git checkout of EasyEdit's main (tried:
14cea82, July 2026). A process uses one of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def evaluation(checkout: str | None = None) -> types.ModuleType:
    """``easyeditor.evaluate.evaluate``, without the rest of the package; ``checkout``: a clone's folder.

    ``easyeditor/__init__.py:1-6`` imports every editor, trainer and multimodal model, some of which
    no longer import (``timm``, ``iopath``, old transformers names). The evaluation needs none of
    them, so packages are entered by bare module objects with the packages' paths.
    """
    folder = Path(checkout) / "easyeditor" if checkout else _installed()
    if not (folder / "evaluate" / "evaluate.py").is_file():
        raise ImportError(f"{checkout} is no checkout of EasyEdit: it holds no easyeditor/evaluate/evaluate.py")
    there = sys.modules.get("easyeditor")
    if there is not None and list(there.__path__) != [str(folder)]:
        raise ImportError(f"easyeditor was imported from {there.__path__[0]} already, {folder} is asked for")
    _bare("easyeditor", folder)
    if checkout:
        _evaluation_alone(folder)
    try:
        module = importlib.import_module("easyeditor.evaluate.evaluate")
    except ModuleNotFoundError as error:
        raise ImportError(f"EasyEdit's evaluation in {folder} needs the package {error.name}: install it") from error
    _words_without_downloads(importlib.import_module("easyeditor.evaluate.evaluate_utils"))
    return module


def _installed() -> Path:
    spec = importlib.machinery.PathFinder.find_spec("easyeditor")  # util's would ask what stands in for it already
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("the package easyeditor is not installed: pip install --no-deps easyeditor==0.0.1.dev0")
    return Path(next(iter(spec.submodule_search_locations)))


def _bare(name: str, folder: Path | None = None, **content: Any) -> None:
    """A module without the code of its own: a package with that path, or a stub with that content."""
    if name not in sys.modules:
        module = types.ModuleType(name)
        if folder is not None:
            module.__path__ = [str(folder)]
        for key, value in content.items():
            setattr(module, key, value)
        sys.modules[name] = module


def _evaluation_alone(folder: Path) -> None:
    """main's evaluation imports what it does not need here: ``evaluate/__init__.py`` the multimodal evaluations,
    ``evaluate/evaluate.py:6`` MELO's LORA, to unwrap it, ``evaluate/evaluate_utils.py:8`` all trainers.
    """
    _bare("easyeditor.evaluate", folder / "evaluate")
    _bare("easyeditor.models", folder / "models")
    _bare("easyeditor.models.melo", folder / "models" / "melo")
    _bare("easyeditor.models.melo.melo", LORA=type("LORA", (), {}))
    _bare("easyeditor.trainer", SERAC=type("SERAC", (), {}))


def _words_without_downloads(module: types.ModuleType) -> None:
    """``evaluate/evaluate_utils.py:183``: ``nltk.word_tokenize`` wants the ``punkt`` download to
    split sentences first; with ``preserve_line=True`` it splits words only and needs none."""
    import nltk

    module.nltk = types.SimpleNamespace(  # type: ignore[attr-defined]
        word_tokenize=functools.partial(nltk.word_tokenize, preserve_line=True),
        ngrams=nltk.ngrams,
        FreqDist=nltk.FreqDist,
    )


# -- single editors -----------------------------------------------------------------------------


def editor(name: str, checkout: str | None = None) -> Any:
    """``easyeditor.models.NAME.NAME_main`` without the rest of the package (see ``evaluation``)."""
    if name in ("mend", "serac"):
        trainer()
        with _stubs():
            return submodule(name, f"{name}_main", checkout)
    return submodule(name, f"{name}_main", checkout)


def submodule(name: str, module: str, checkout: str | None = None) -> Any:
    """``easyeditor.models.NAME.MODULE``; ``checkout``: a clone's folder. Raises ImportError."""
    folder = Path(checkout) / "easyeditor" if checkout else _installed()
    if not (folder / "models" / name).is_dir():
        raise ImportError(f"{folder} holds no editor called {name}")
    there = sys.modules.get("easyeditor")
    if there is not None and list(there.__path__) != [str(folder)]:
        raise ImportError(f"easyeditor was imported from {there.__path__[0]} already, {folder} is asked for")
    _bare("easyeditor", folder)
    _bare("easyeditor.models", folder / "models")
    try:
        return importlib.import_module(f"easyeditor.models.{name}.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f"EasyEdit's {name} in {folder} needs the package {error.name}: install it") from error


def forget() -> None:
    """Let a checkout be imported where the package was: the warm server gives a stage's process its own modules.

    Nothing else in that process may hold on to the package's functions.
    """
    for name in [name for name in sys.modules if name == "easyeditor" or name.startswith("easyeditor.")]:
        del sys.modules[name]


@contextlib.contextmanager
def adalora_steps(module: Any, steps: int) -> Iterator[None]:
    """``models/lora/lora_main.py:83`` makes its AdaLoraConfig without ``total_step``, which peft 0.18 wants."""
    upstream = module.AdaLoraConfig
    module.AdaLoraConfig = functools.partial(upstream, total_step=steps)
    try:
        yield
    finally:
        module.AdaLoraConfig = upstream


@contextlib.contextmanager
def padding_of_its_own(tokenizer: Any) -> Iterator[None]:
    """Inside, what pads is not what ends a text.

    ``models/lora/lora_main.py:148-158`` writes the end-of-sequence token behind the answer and takes every padding
    token for padding, so that where the two are one the answer's first token is masked and never learned. EasyEdit's
    main has dropped that token.
    """
    upstream, ends = tokenizer.pad_token, (tokenizer.eos_token, tokenizer.bos_token)
    if upstream == tokenizer.eos_token:
        rare = [tokenizer.bos_token, tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)]
        free = [token for token in tokenizer.all_special_tokens if token not in ends]
        tokenizer.pad_token = next(token for token in [*free, *rare] if token is not None)
    try:
        yield
    finally:
        tokenizer.pad_token = upstream


@contextlib.contextmanager
def float32_keys(rome: Any) -> Iterator[None]:
    """``rome``: ``models/rome/repr_tools.py``. Inside, it gives keys and values in float32 whatever the model's format.

    In bf16 ``rome/compute_u.py:120`` multiplies them with float32 moments, ``compute_v.py:186`` and
    ``rome_main.py:127`` with what was found in float32, and torch multiplies no two formats.
    """
    upstream = rome.get_reprs_at_idxs

    def in_float32(*args: Any, **kwargs: Any) -> Any:
        found = upstream(*args, **kwargs)
        return tuple(one.float() for one in found) if isinstance(found, tuple) else found.float()

    rome.get_reprs_at_idxs = in_float32
    try:
        yield
    finally:
        rome.get_reprs_at_idxs = upstream


@contextlib.contextmanager
def layers_give_tuples(module: Any) -> Iterator[None]:
    """Inside, ``compute_z`` sees a decoder layer's output as the tuple that it was before transformers 4.54.

    ``models/memit/compute_z.py:93,137`` take its first element; a tensor's first element is a row of the batch.
    """
    compute: Any = sys.modules[module.compute_z.__module__]
    upstream = compute.nethook

    class Layers(upstream.TraceDict):  # type: ignore[name-defined]
        def __init__(self, *args: Any, edit_output: Any = None, **kwargs: Any):
            def edit(output: Any, layer: str) -> Any:
                return edit_output(output, layer) if isinstance(output, tuple) else edit_output((output,), layer)[0]

            super().__init__(*args, edit_output=edit, **kwargs)

        def __getitem__(self, layer: str) -> Any:
            output = super().__getitem__(layer).output
            return types.SimpleNamespace(output=output if isinstance(output, tuple) else (output,))

    compute.nethook = types.SimpleNamespace(
        TraceDict=Layers,
        get_module=upstream.get_module,
        get_parameter=upstream.get_parameter,
        set_requires_grad=upstream.set_requires_grad,
    )
    try:
        yield
    finally:
        compute.nethook = upstream


# -- editors that are trained -------------------------------------------------------------------


def trainer() -> types.ModuleType:
    """``easyeditor.trainer`` with MEND and SERAC, its ``EditTrainer`` and ``training_hparams`` loaded as modules.

    ``trainer/__init__.py:5-6`` imports the multimodal parts besides. Raises ImportError.
    """
    name, folder = "easyeditor.trainer", _installed()
    _bare("easyeditor", folder)
    _bare(name, folder / "trainer")
    try:
        algorithms = importlib.import_module(f"{name}.algs")
        for key in ("MEND", "SERAC", "SERAC_MULTI"):  # util/alg_train_dict.py:1 reads them off the package
            setattr(sys.modules[name], key, getattr(algorithms, key))
        for module in ("EditTrainer", "training_hparams"):
            importlib.import_module(f"{name}.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f"EasyEdit's trainer in {folder} needs the package {error.name}: install it") from error
    return sys.modules[name]


@contextlib.contextmanager
def training_on(model: Any) -> Iterator[Any]:
    """Inside, ``EditTrainer`` trains on this model; yields that class.

    ``trainer/models.py:98`` loads a model by a class's name, which also says whether labels are shifted
    (``trainer/algs/editable_model.py:17-28``, for names with llama or gpt only); ``trainer/algs/SERAC.py:59`` loads the
    counterfactual model by the same name. transformers 5 loads weights in the format that they are stored in, in
    which Adam's small steps are lost: what is trained is made float32, as transformers 4.30 had it. Decoders slice
    their list of layers, which ``higher/patch.py:221`` makes a class of whose constructor takes other arguments.
    """
    import dataclasses

    import torch

    package, patched = trainer(), importlib.import_module("higher.patch")._MonkeyPatchBase
    base: Any = sys.modules[f"{package.__name__}.BaseTrainer"]
    utils: Any = sys.modules[f"{package.__name__}.utils"]
    get_model, serac, item = base.get_model, base.ALG_TRAIN_DICT["SERAC"], torch.nn.ModuleList.__getitem__

    def loaded(config: Any) -> Any:
        utils.set_dropout(model, config.dropout)
        return model

    def any_model(base_model: Any, config: Any, constructor: Any) -> Any:
        made = serac(base_model, dataclasses.replace(config, model_class="AutoModelForCausalLM"), constructor)
        for trained in (made.classifier, made.replacement):
            trained.float()
        return made

    def sliced(layers: Any, at: Any) -> Any:
        if isinstance(at, slice) and isinstance(layers, patched):
            return list(layers._modules.values())[at]
        return item(layers, at)

    base.get_model, base.ALG_TRAIN_DICT["SERAC"] = loaded, any_model
    torch.nn.ModuleList.__getitem__ = sliced
    try:
        yield sys.modules[f"{package.__name__}.EditTrainer"].EditTrainer
    finally:
        base.get_model, base.ALG_TRAIN_DICT["SERAC"] = get_model, serac
        torch.nn.ModuleList.__getitem__ = item


def bend_trainer(trainer: Any, archive: Path) -> None:
    """Make a trainer edit with a batch's condition, and keep its best editor in ``archive``, tensors and numbers alone.

    ``trainer/EditTrainer.py:45,50`` edits with the texts that the edited model is asked then; no editor reads the
    condition. ``trainer/BaseTrainer.py:113-127`` writes the optimizer's state as well, twice as large, keeps the file
    before, and pickles the model's configuration, which torch.load refuses today.
    """
    import torch

    edits = trainer.model.edit

    def keep(stats: Mapping[str, Any]) -> None:
        state = {**trainer.model.state_dict(), "model_config": None}
        numbers = {name: float(value) for name, value in stats.items()}
        torch.save({"model": state, "step": trainer.global_iter, "val_stats": numbers}, archive)

    trainer.model.edit = lambda asked, condition: edits(condition)
    trainer.save_state = keep


def mend_executor(module: Any, model: Any, tokenizer: Any, hparams: Any, batch_of: Callable[[Any], Any]) -> Any:
    """Of ``module`` (``mend_main``) a ``MendRewriteExecutor`` on a model; ``batch_of``: texts to what is edited with.

    ``mend_main.py:37`` leaves the networks in training mode, so that the normalisation begins anew with the first fact
    (EasyEdit's main calls ``eval``): here it stays what training left. ``mend_main.py:119`` counts padding among the
    answers' tokens. ``mend_main.py:160`` takes learned step sizes in the model's order, ``MEND.py:367`` in that of
    ``inner_params``. Parts of the model's name choose the form of its matrices (``mend_main.py:144``).
    """
    hparams.model_name = path_name(model)
    hparams.inner_params = [name for name, _ in model.named_parameters() if name in set(hparams.inner_params)]
    executor = module.MendRewriteExecutor()
    executor.init_model(model, tokenizer, hparams)
    executor.alg.eval()
    edits = executor.alg.edit
    executor.alg.edit = lambda theirs, condition, **more: edits(batch_of(theirs), condition, **more)
    return executor


def path_name(model: Any) -> str:
    """The model name that chooses MEND's code for a decoder: the form of its matrices (``mend_main.py:144``)."""
    from transformers import GPT2LMHeadModel

    return "gpt2" if isinstance(model, GPT2LMHeadModel) else "llama"


# -- the whole package, with its editors --------------------------------------------------------

STUBS = ("easyeditor.trainer.blip2_models", "cv2", "hydra")
"""What ``easyeditor/__init__.py`` imports besides, for images and for a launcher; text editing calls none of it.

``trainer/__init__.py:5`` imports ``blip2_models``, which wants ``timm`` and ``iopath`` of 2023
(``blip2_models/common/dist_utils.py:14``, ``blip2_models/common/utils.py:24``); ``dataset/processor/randaugment.py:8``
imports ``cv2``; ``models/mend/mend_main.py:5`` and ``models/serac/serac_main.py:5`` import ``hydra``.
"""


def editors() -> types.ModuleType:
    """The package ``easyeditor`` as its own ``__init__`` makes it, to edit with (``BaseEditor``); no checkout.

    Raises ImportError where ``evaluation`` came first in this process: it leaves the package's own code out.
    """
    there = sys.modules.get("easyeditor")
    if there is not None and not hasattr(there, "BaseEditor"):
        raise ImportError("EasyEdit's evaluation was imported alone here: import its editors in a process of their own")
    _installed()
    with _stubs():
        try:
            return importlib.import_module("easyeditor")
        except ModuleNotFoundError as error:
            raise ImportError(f"EasyEdit's editors need the package {error.name}: install it") from error


@contextlib.contextmanager
def _stubs() -> Iterator[None]:
    """Inside, empty modules answer for STUBS, but for packages that are installed; afterwards their names are free."""
    absent = [name for name in STUBS if "." in name or importlib.util.find_spec(name) is None]

    class Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
            return importlib.machinery.ModuleSpec(name, self) if name in absent else None

        def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
            """Python's own kind of module."""

        def exec_module(self, module: types.ModuleType) -> None:
            """It stays empty."""

    finder = Empty()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in absent:
            if "." not in name:  # other packages ask whether these are there
                sys.modules.pop(name, None)


@contextlib.contextmanager
def on_device(device: str) -> Iterator[int]:
    """Yields the device number EasyEdit wants; on a CPU, ``cuda:N`` means the CPU inside.

    The package's ``evaluate/evaluate_utils.py:20,53,61,96`` say ``.to(f"cuda:{device}")`` whatever there is; main's
    ``util/device.py`` makes ``cuda:N`` of a number.
    """
    if device != "cpu":
        yield int(device.partition(":")[2] or 0)
        return

    import torch
    from torch.overrides import TorchFunctionMode

    def to_cpu(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("cuda"):
            return "cpu"
        if isinstance(value, torch.device) and value.type == "cuda":
            return torch.device("cpu")
        return value

    class CudaIsCpu(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return func(*(to_cpu(a) for a in args), **{k: to_cpu(v) for k, v in (kwargs or {}).items()})

    with CudaIsCpu():
        yield 0
