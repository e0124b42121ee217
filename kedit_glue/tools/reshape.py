"""A model's change, matrix by matrix, put in another shape: what was tuned or merged is written anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kedit_glue.atomic import link_or_copy
from kedit_glue.tools import Emit
from kedit_glue.weights import Stored, read_header

WEIGHTS = frozenset([".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf"])


def reshaped(
    job: Mapping[str, Any],
    names: Callable[[Mapping[str, Stored]], Mapping[str, str]],
    change_of: Callable[[str, Any], Any],
    emit: Emit,
) -> Iterator[tuple[str, Any, Any]]:
    """Write ``job['output']``, the model of ``job['model']`` whose change from ``job['before']`` is another.

    ``names``: of the stored tensors those that change -> their parameters' names; ``change_of``: of a parameter's name
    and its change D (as it is stored, float32) what takes D's place. Matrices become W0 + D', computed in float32, in
    W's number format; all other tensors stay bit for bit, and shards without a change are hard links.

    Gives parameter's name, D, and D' as it is after rounding, matrix by matrix; nothing is whole before the last.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    model, before, output = Path(job["model"]), Path(job["before"]), Path(job["output"])
    stored, originals = tensor_files(model), tensor_files(before)
    wanted = names(stored)
    if strange := sorted(wanted.keys() - originals.keys()):
        raise ValueError(f"{before} has no tensor {strange[0]}: it is not what {model} was tuned from")
    output.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.is_file() and file.suffix not in WEIGHTS:
            shutil.copy(file, output / file.name)
    shards = sorted({at.file for at in stored.values()})
    for position, shard in enumerate(shards, 1):
        own = [name for name in wanted if stored[name].file == shard]
        target = output / shard.name
        target.unlink(missing_ok=True)
        if own:
            tensors = load_file(shard)
            for name in own:
                with safe_open(originals[name].file, framework="pt") as opened:
                    start = opened.get_tensor(name).float()
                if start.shape != tensors[name].shape:
                    raise ValueError(f"{name} has another shape in {before}")
                change = tensors[name].float() - start
                tensors[name] = (start + change_of(wanted[name], change)).to(tensors[name].dtype)
                yield wanted[name], change, tensors[name].float() - start
            with safe_open(shard, framework="pt") as opened:
                save_file(tensors, target, metadata=opened.metadata())
        else:
            link_or_copy(shard, target)
        emit({"event": "directions", "position": position, "of": len(shards)})


def tensor_files(folder: Path) -> dict[str, Stored]:
    """Each tensor of a model folder, and the file that holds it."""
    found = {name: at for file in sorted(folder.glob("*.safetensors")) for name, at in read_header(file).items()}
    if not found:
        raise ValueError(f"{folder} holds no safetensors file")
    return found
