"""Everything that has to be bent to run EasyEdit's own evaluation here, each with its reason.

Upstream: the PyPI package ``easyeditor`` 0.0.1.dev0 (October 2023).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any


def evaluation() -> types.ModuleType:
    """``easyeditor.evaluate.evaluate``, without the rest of the package.

    ``easyeditor/__init__.py:1-6`` imports every editor, trainer and multimodal model, some of which
    no longer import (``timm``, ``iopath``, old transformers names). The evaluation needs none of
    them, so the package is entered by a bare module object with the package's path.
    """
    if "easyeditor" not in sys.modules:
        spec = importlib.util.find_spec("easyeditor")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("the package easyeditor is not installed: pip install --no-deps easyeditor==0.0.1.dev0")
        package = types.ModuleType("easyeditor")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["easyeditor"] = package
    module = importlib.import_module("easyeditor.evaluate.evaluate")
    _words_without_downloads(importlib.import_module("easyeditor.evaluate.evaluate_utils"))
    return module


def _words_without_downloads(module: types.ModuleType) -> None:
    """``evaluate/evaluate_utils.py:183``: ``nltk.word_tokenize`` wants the ``punkt`` download to
    split sentences first; with ``preserve_line=True`` it splits words only and needs none."""
    import nltk

    module.nltk = types.SimpleNamespace(  # type: ignore[attr-defined]
        word_tokenize=functools.partial(nltk.word_tokenize, preserve_line=True),
        ngrams=nltk.ngrams,
        FreqDist=nltk.FreqDist,
    )


@contextlib.contextmanager
def on_device(device: str) -> Iterator[int]:
    """Yields the device number EasyEdit wants; on a CPU, ``cuda:N`` means the CPU inside.

    ``evaluate/evaluate_utils.py:20,53,61,96`` say ``.to(f"cuda:{device}")`` whatever there is.
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
