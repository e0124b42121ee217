"""Input directions that general text uses, to be kept free of change while facts are learned.

For each trained matrix W the second moment C = sum x xᵀ of its inputs over a corpus; its leading
eigenvectors V span what ordinary text feeds into W. With (W - W0) V = 0 ordinary inputs meet the
matrix they knew. Kin to null-space editing (AlphaEdit, arXiv 2410.02355); ``protection.py`` says
what is done with the directions.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedit_glue import models, moments
from kedit_glue.corpus import name_of, read_corpus
from kedit_glue.tools import Emit
from kedit_glue.tools.moments import ensure
from kedit_glue.tools.reshape import reshaped
from kedit_glue.weights import Stored

# -- a model and a corpus to directions -----------------------------------------------------------


def directions(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``: a safetensors file, parameter name -> U [inputs, k], float32.

    ``job``: ``model`` (folder), ``corpus`` (file, data set or None: ``corpus.read_corpus``), ``texts``
    (how many, None: all), ``trainable`` (regular expression), ``directions`` (k) or ``energy`` (the
    fewest eigenvectors that hold this share of C's trace, for each matrix), ``strength`` (None: hard;
    lambda: soft, then without either of them over all directions), ``device``, ``trust_remote_code``,
    ``cache`` (folder of statistics, None: the project's own), ``output``. The file's metadata
    (``protection.ABOUT``, JSON): ``mode`` (hard, soft), ``strength``, ``energy``, ``k``, ``inputs_first``.

    Returns ``tokens``, ``matrices``, the mean share ``energy`` of the trace and the mean number
    ``directions``, where the ``moments`` came from, ``moments_bytes`` on disk, and the seconds; ``seconds_kept``: what
    computing them took an earlier run that left them in the cache.
    """
    import torch
    from safetensors.torch import save_file

    from kedit_glue import protection

    count, energy, strength = job.get("directions"), job.get("energy"), job.get("strength")
    check_settings(count, energy, strength)
    started = time.monotonic()
    model, device, remote = Path(job["model"]), job["device"], job["trust_remote_code"]
    texts = read_corpus(job.get("corpus"), job.get("texts"))
    place = moments.place(Path(job.get("cache") or models.cache_dir()), model, name_of(job.get("corpus")), texts)
    shapes = matrices(model, job["trainable"], remote)
    modules = {name: name.rpartition(".")[0] for name in shapes}

    new = ensure(model, list(modules.values()), texts, place, emit, device, remote)
    source = "computed" if new else "from the cache"
    seconds_moments = time.monotonic() - started

    found: dict[str, Any] = {}
    shares, tokens = [], 0
    known: dict[tuple[int, int], tuple[Any, float]] = {}  # matrices that read the same input share one file
    sizes: dict[tuple[int, int], int] = {}
    for position, (name, (inputs, _)) in enumerate(shapes.items(), 1):
        file = place.file(modules[name])
        status = file.stat()
        inode = (status.st_dev, status.st_ino)
        if inode not in known:
            tokens, moment = moments.read(file, inputs)
            sizes[inode] = status.st_size
            try:
                known[inode] = leading(moment, count, energy, strength, device)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        columns, share = known[inode]
        found[name] = torch.from_numpy(columns).clone()
        shares.append(share)
        emit({"event": "directions", "position": position, "of": len(shapes)})
    about = {
        "mode": "hard" if strength is None else "soft",
        "strength": strength,
        "energy": energy,
        "k": {name: columns.shape[1] for name, columns in found.items()},
        "inputs_first": [name for name, (_, inputs_first) in shapes.items() if inputs_first],
    }
    save_file(found, job["output"], metadata={protection.ABOUT: json.dumps(about)})
    result = {
        "tokens": tokens,
        "matrices": len(found),
        "energy": sum(shares) / len(shares),
        "directions": sum(columns.shape[1] for columns in found.values()) / len(found),
        "moments": source,
        "moments_bytes": sum(sizes.values()),
        "seconds_moments": round(seconds_moments, 3),
        "seconds_kept": 0.0 if new else moments.seconds(place.file(module) for module in modules.values()),
        "seconds_directions": round(time.monotonic() - started - seconds_moments, 3),
    }
    emit(
        {
            "event": "say",
            "text": "second moments over {tokens:,} tokens {moments} in {seconds_moments:.1f} s; {directions:.0f} "
            "directions a matrix in {seconds_directions:.1f} s, they hold {energy:.1%} of the inputs' energy; ".format(
                **result
            )
            + f"{result['moments_bytes'] / 1e6:,.0f} MB kept in {place.folder}",
        }
    )
    return result


def check_settings(count: int | None, energy: float | None, strength: float | None) -> None:
    """Raises ValueError for settings that mean nothing, or two things."""
    if count is not None and energy is not None:
        raise ValueError("protect: directions and energy both say how many directions; give one of them")
    if count is None and energy is None and strength is None:
        raise ValueError("protect: give directions, energy or strength")
    if count is not None and count < 1:
        raise ValueError(f"protect.directions is {count}, and must be at least 1")
    if energy is not None and not 0 < energy < 1:
        raise ValueError(f"protect.energy is {energy}, and must lie between 0 and 1")
    if strength is not None and strength <= 0:
        raise ValueError(f"protect.strength is {strength}, and must be above 0")


def matrices(model: Path, trainable: str, trust_remote_code: bool) -> dict[str, tuple[int, bool]]:
    """Matrices that ``trainable`` finds: name -> number of inputs, and whether these come first (Conv1D).

    The model is built without weights. Raises ValueError for what is no linear layer's.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    known = dict(shell.named_modules())
    pattern = re.compile(trainable)
    found = {}
    for name, parameter in shell.named_parameters():
        if parameter.ndim < 2 or not pattern.search(name):
            continue
        module = known[name.rpartition(".")[0]]
        if not isinstance(module, torch.nn.Linear | Conv1D):
            raise ValueError(f"only linear layers have input directions; {name} belongs to a {type(module).__name__}")
        inputs_first = isinstance(module, Conv1D)
        found[name] = (parameter.shape[0 if inputs_first else 1], inputs_first)
    if not found:
        raise ValueError(f"no matrix of the model matches {trainable!r}: check train.modules and train.layers")
    return found


def leading(
    moment: Any, count: int | None, energy: float | None, strength: float | None, device: str = "cpu"
) -> tuple[Any, float]:
    """U [inputs, k] (float32) of a moment [inputs, inputs], and the share of its trace that the k directions hold.

    Leading eigenvectors: ``count`` of them, or the fewest that hold ``energy``, or all. With a ``strength``
    lambda each is scaled by sqrt(e / (lambda + e)), e its eigenvalue over the mean of all.
    """
    import numpy

    size = moment.shape[0]
    trace = max(float(numpy.trace(moment, dtype=numpy.float64)), 1e-30)
    if count is not None and (count > size or (count == size and strength is None)):
        raise ValueError(f"protect.directions is {count}, a matrix has only {size} inputs: nothing could change")
    values, vectors = eigenvectors(moment, size if count is None else count, device)
    if energy is not None:
        k = min(int(numpy.searchsorted(values.cumsum() / trace, energy)) + 1, size)
        if k == size and strength is None:
            raise ValueError(f"protect.energy {energy} takes all {size} directions: nothing could change")
        values, vectors = values[:k], vectors[:, :k]
    share = float(values.sum() / trace)
    if strength is not None:
        relative = values * size / trace
        vectors = vectors * numpy.sqrt(relative / (strength + relative))
    return numpy.ascontiguousarray(vectors, dtype=numpy.float32), share


def eigenvectors(moment: Any, count: int, device: str) -> tuple[Any, Any]:
    """The ``count`` largest eigenvalues, falling, and their eigenvectors as columns; in float64."""
    size = moment.shape[0]
    if device == "cpu":
        import scipy.linalg

        values, vectors = scipy.linalg.eigh(
            moment.astype("float64"), subset_by_index=[size - count, size - 1], driver="evr", overwrite_a=True
        )
    else:
        import torch

        on_device = torch.linalg.eigh(torch.from_numpy(moment).to(device).double())
        values, vectors = (part[..., size - count :].cpu().numpy() for part in on_device)
    return values[::-1].clip(min=0.0), vectors[:, ::-1]


# -- a model tuned elsewhere ----------------------------------------------------------------------


def project(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``: the model with its change taken out of the directions, once.

    ``job``: ``model`` (folder of the tuned or merged model), ``before`` (folder it was tuned from),
    ``directions`` (file), ``trainable`` (regular expression, None: all that the file has), ``output``.
    Matrices become W0 + (W - W0)(I - U Uᵀ) (``reshape.reshaped``).

    Returns the number of ``matrices``, the norm of their change before and after, and the norm of
    what lies in the directions (the change times U), after rounding to the number format.
    """
    from kedit_glue import protection

    found = protection.read(job["directions"])
    squares = {"change_before": 0.0, "change_after": 0.0, "in_directions_before": 0.0, "in_directions_after": 0.0}
    count = 0

    def names(stored: Mapping[str, Stored]) -> dict[str, str]:
        return matched(stored, found.vectors.keys(), job.get("trainable") or "")

    def outside(name: str, change: Any) -> Any:
        vectors, first = found.vectors[name], name in found.inputs_first
        if vectors.shape[0] != change.shape[0 if first else -1]:
            raise ValueError(f"{name} has another shape in {job['directions']}")
        return protection.project(change, vectors, first)

    for name, was, left in reshaped(job, names, outside, emit):
        count += 1
        for key, part in (("before", was), ("after", left)):
            squares[f"change_{key}"] += float(part.norm()) ** 2
            turned = part.T if name in found.inputs_first else part
            squares[f"in_directions_{key}"] += float((turned @ found.vectors[name]).norm()) ** 2
    return {"matrices": count, **{key: value**0.5 for key, value in squares.items()}}


def matched(stored: Mapping[str, Stored], known: Any, trainable: str) -> dict[str, str]:
    """Names of the stored matrices that ``trainable`` finds -> their names among the ``known`` directions.

    Files of some models lack the first part of a parameter's name (``h.0…`` for ``transformer.h.0…``).
    Raises ValueError where a matrix that was asked for has no directions.
    """
    names = {name.partition(".")[2]: name for name in known} | {name: name for name in known}
    asked = [name for name in stored if re.search(trainable, name)]
    found = {name: names[name] for name in asked if name in names}
    missing = [name for name in asked if trainable and name not in names and len(stored[name].shape) in (2, 3)]
    if missing or not found:
        raise ValueError(f"there are no directions for {', '.join(missing[:3]) or 'any matrix of the model'}")
    return found
