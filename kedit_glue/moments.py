"""Second moments of modules' inputs on disk, in the file format of EasyEdit's ROME and MEMIT.

One file for each module, as ``easyeditor/models/rome/layer_stats.py`` names it and
``easyeditor/util/runningstats.py`` (``CombinedStat(mom2=SecondMoment())``) writes it, below
``CACHE/stats/MODEL/CORPUS_stats/``: files of ours serve MEMIT (``stats_dir`` CACHE/stats,
``mom2_dataset`` CORPUS, ``mom2_n_samples`` the number of texts, ``mom2_dtype`` float32), and files
of EasyEdit's that are put there serve here.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from kedit_glue.atomic import link_or_copy

BATCH = 16
MAX_TOKENS = 96  # of each text
CONSTRUCTOR = "easyeditor.util.runningstats.SecondMoment()"
SETTINGS = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


class MomentsError(ValueError):
    """A file of the cache is not what its name says; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """Where the moments of one model over one corpus are kept."""

    folder: Path
    texts: int

    def file(self, module: str) -> Path:
        return self.folder / f"{module}_float32_mom2_{self.texts}.npz"


def place(cache: Path, model: Path, corpus: str, texts: Sequence[str]) -> Place:
    """``cache``: the folder of all statistics; ``corpus``: the texts' name, for people."""
    return Place(cache / "stats" / model_key(model) / f"{corpus_key(corpus, texts)}_stats", len(texts))


def model_key(folder: Path) -> str:
    """Folder's name and a short hash of weights, configuration and vocabulary: what the inputs depend on."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    total = hashlib.sha256()
    for file in (*weights, *(folder / name for name in SETTINGS)):
        if file.is_file():
            with file.open("rb") as opened:
                total.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return f"{folder.resolve().name[:60]}-{total.hexdigest()[:12]}"


def corpus_key(name: str, texts: Sequence[str]) -> str:
    """Name, a short hash of the texts, and how many tokens of each are read."""
    return f"{name[:60]}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:12]}-{MAX_TOKENS}"


def read(file: Path, inputs: int) -> tuple[int, Any]:
    """Number of tokens and their sum of x xᵀ, float32 [inputs, inputs]. Raises MomentsError."""
    try:
        with numpy.load(file) as stored:
            count, moment = int(stored["mom2.count"]), stored["mom2.mom2"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MomentsError(f"{file} holds no second moment ({error}): delete it, it will be computed again") from error
    if moment.shape != (inputs, inputs):
        raise MomentsError(
            f"{file} holds a moment of shape {list(moment.shape)}, the matrix has {inputs} inputs: "
            "it is of another model; delete it, it will be computed again"
        )
    return count, moment


def seconds(files: Iterable[Path]) -> float:
    """What computing these files took, s; a file under several names counts once, one of EasyEdit's nothing."""
    found: dict[tuple[int, int], float] = {}
    for file in files:
        status = file.stat()
        with numpy.load(file) as stored:
            found[status.st_dev, status.st_ino] = float(stored["seconds"]) if "seconds" in stored else 0.0
    return round(sum(found.values()), 3)


def write(place: Place, module: str, count: int, moment: Any, seconds: float) -> None:
    """``moment``: float32 [inputs, inputs], the sum of x xᵀ over ``count`` tokens; ``seconds``: what computing it took,
    which EasyEdit passes over. Old file or whole new one.
    """
    file = place.file(module)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(file)
    with aside.open("wb") as opened:
        numpy.savez(
            opened,
            **{
                "mom2.constructor": numpy.array(CONSTRUCTOR),
                "mom2.count": numpy.array(count),
                "mom2.mom2": moment,
                "sample_size": numpy.array(place.texts),
                "seconds": numpy.array(seconds),
            },
        )
    aside.replace(file)


def share(place: Place, module: str, source: str) -> None:
    """``module`` reads the same input as ``source``: the same file under its name."""
    aside = _aside(place.file(module))
    aside.unlink(missing_ok=True)
    link_or_copy(place.file(source), aside)
    aside.replace(place.file(module))
    aside.unlink(missing_ok=True)  # renaming one link of a file over another does nothing


def _aside(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial-{os.getpid()}")
