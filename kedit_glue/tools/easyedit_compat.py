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
from collections.abc import Iterator
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
