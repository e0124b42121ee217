"""The stage in which a rival edits a batch into the weights: EasyEdit's own code, or ours where its package lacks it.

Each batch has a process of its own, begins with the model that the batch before left on disk and seeds before it
edits: a run that is stopped and taken up again leaves the same weights.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kedit_glue import corpus, weights
from kedit_glue import moments as second
from kedit_glue.atomic import write_json
from kedit_glue.tools import Emit
from kedit_glue.tools.easyedit import NAME
from kedit_glue.tools.moments import ensure
from kedit_glue.tools.protect import matrices
from kedit_glue.tools.reshape import WEIGHTS

if TYPE_CHECKING:
    from kedit_glue.tools.editors import Moments

SINGULAR = 1e7
"""A condition number at which a matrix's inverse has no digit left in float32."""
NO_MOMENTS: Mapping[str, Any] = {"files": {}}


class EditError(RuntimeError):
    """An editor left no sound model; the message says what and what to do."""


def moments(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """General text's second moments of the inputs of the matrices that ``job['trainable']`` finds, cached.

    ``job``: ``model`` (folder), ``corpus`` and ``texts`` (``corpus.read_corpus``), ``trainable``, ``cache``,
    ``device``, ``trust_remote_code``, ``ridge`` (shares of the mean eigenvalue added to the diagonal; None: nobody
    inverts them), ``output``: JSON with the file of each module and the ridge. Returns ``tokens``, ``seconds``,
    ``seconds_kept`` (what computing them took an earlier run that left them in the cache) and, with a ridge, each
    matrix's ``condition`` number before and after it.
    """
    import numpy

    started = time.monotonic()
    model, remote = Path(job["model"]), job["trust_remote_code"]
    texts = corpus.read_corpus(job["corpus"], job["texts"])
    place = second.place(Path(job["cache"]), model, corpus.name_of(job["corpus"]), texts)
    shapes = {
        name.rpartition(".")[0]: inputs for name, (inputs, _) in matrices(model, job["trainable"], remote).items()
    }
    new = ensure(model, list(shapes), texts, place, emit, job["device"], remote)
    conditions, tokens = {}, 0
    for module, inputs in shapes.items():
        tokens, moment = second.read(place.file(module), inputs)
        if job["ridge"] is None:
            continue
        values = numpy.linalg.eigvalsh(moment.astype("float64")).clip(min=0.0)
        added = job["ridge"] * values.mean()
        conditions[module] = [_ratio(values.max(), values.min()), _ratio(values.max() + added, values.min() + added)]
    files = {module: place.file(module) for module in shapes}
    kept = 0.0 if new else second.seconds(files.values())
    paths = {module: str(file) for module, file in files.items()}
    write_json(Path(job["output"]), {"files": paths, "inputs": shapes, "ridge": job["ridge"], "tokens": tokens})
    said = ""
    if conditions:
        worst = max(conditions.values())
        said = f"; condition number up to {worst[0]:.1e}" + (f", with the ridge {worst[1]:.1e}" if job["ridge"] else "")
    seconds = round(time.monotonic() - started, 3)
    source = "computed" if new else "from the cache"
    emit({"event": "say", "text": f"second moments over {tokens:,} tokens {source} in {seconds:.1f} s{said}"})
    if singular := [name for name, (_, ridged) in conditions.items() if ridged > SINGULAR]:
        emit({"event": "say", "text": warned(singular[0], tokens, shapes[singular[0]])})
    return {
        "tokens": tokens,
        "seconds": seconds,
        "seconds_kept": kept,
        **({"condition": conditions} if conditions else {}),
    }


def warned(module: str, tokens: int, inputs: int) -> str:
    """What an editor that inverts a singular moment does to a model, and what to do about it."""
    return (
        f"warning: the second moments of {module} are singular ({tokens:,} tokens of text for {inputs:,} inputs): "
        "edits go where the text never goes, and destroy the model. Set moments_ridge (0.01) or a longer text "
        "(moments, moments_texts) in the method's section"
    )


def _ratio(largest: float, smallest: float) -> float:
    return float(largest / max(smallest, largest * 1e-300)) if largest > 0 else 1.0


def edit(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``, the model of ``job['model']`` with the facts of ``job['facts']`` edited in.

    ``job``: ``method``, ``edit_yaml`` (EasyEdit's hparams), ``facts`` (JSON list of ``id``, ``prompt``, ``subject``,
    ``target_new``), ``moments`` and ``editor`` (what those stages wrote, or None), ``trainable`` (regular expression:
    what the method may change), ``checkout`` (of EasyEdit, or None), ``cache``, ``seed``, ``device``,
    ``trust_remote_code``.

    Returns ``facts``, ``seconds_editing`` (without loading and saving), ``task_vector_norm`` (Euclidean, of the change
    of this batch) and ``bytes_changed`` (size of the tensors that may change).
    """
    import torch

    from kedit_glue.tools import asking

    model, tokenizer = asking.load(job["model"], job["device"], job["trust_remote_code"])
    requests = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
    hparams, moments = hparams_of(job), moments_of(job)
    emit({"event": "loaded"})
    started = time.monotonic()
    edited = edit_model(job, model, tokenizer, hparams, moments, requests, emit)
    seconds = time.monotonic() - started
    with torch.no_grad():
        norm, size = save(edited, Path(job["model"]), Path(job["output"]), job["trainable"], Path(job["cache"]))
    return {
        "facts": len(requests),
        "seconds_editing": round(seconds, 3),
        "task_vector_norm": norm,
        "bytes_changed": size,
    }


def hparams_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """EasyEdit's hparams, as the YAML stands; a trained editor's are those that it was trained by."""
    from kedit_glue.tools import learned

    hparams: dict[str, Any] = yaml.safe_load(Path(job["edit_yaml"]).read_text(encoding="utf-8"))
    if job.get("editor"):
        hparams |= learned.hparams_of(Path(job["editor"]))
    return hparams


def moments_of(job: Mapping[str, Any]) -> Moments:
    """The second moments that ``job['moments']`` tells of; empty where it is None."""
    from kedit_glue.tools import editors

    statistics = json.loads(Path(job["moments"]).read_text(encoding="utf-8")) if job["moments"] else NO_MOMENTS
    return editors.load_moments(statistics, job["device"])


def edit_model(
    job: Mapping[str, Any],
    model: Any,
    tokenizer: Any,
    hparams: Mapping[str, Any],
    moments: Moments,
    requests: Sequence[Mapping[str, Any]],
    emit: Emit,
) -> Any:
    """``model`` with the requests edited in, seeded anew; which object comes back is the method's affair."""
    from transformers import set_seed

    from kedit_glue.tools import editors

    # the package's statistics and context templates are kept by this name
    model.config._name_or_path = model.name_or_path = NAME
    random.seed(job["seed"])
    set_seed(job["seed"])
    editor = editors.Editor(job["method"], model, tokenizer, hparams, job["device"], job["checkout"], emit)
    return editor.edit(requests, moments)


def save(edited: Any, before: Path, output: Path, trainable: str, cache: Path) -> tuple[float, int]:
    """``edited`` as a model folder whose unchanged tensors are links; the change's norm, and the bytes that may change.

    Raises EditError for numbers that are not finite, for a model that nothing was changed in, and for a change
    outside of ``trainable``.
    """
    from safetensors.torch import save_file

    old = weights.Weights(before)
    new = {name: value.detach().cpu() for name, value in edited.state_dict().items() if name in old}
    touched, norm = changes(new, old, trainable)
    output.mkdir(parents=True, exist_ok=True)
    for file in before.iterdir():
        if file.is_file() and file.suffix not in WEIGHTS and file.name != weights.INDEX:
            shutil.copy(file, output / file.name)
    save_file(touched, output / weights.SINGLE, metadata={"format": "pt"})
    rest, _ = weights.rest_shards(before, trainable, cache)
    weights.lay_out(output, rest, weights.stored(before))
    return norm, bytes_of(touched)


def changes(new: Mapping[str, Any], old: Any, trainable: str) -> tuple[dict[str, Any], float]:
    """The tensors that ``trainable`` finds, in the format that they had, and the Euclidean norm of their change.

    ``old`` gives a tensor by its name. Raises EditError as ``save``.
    """
    import torch

    pattern = re.compile(trainable)
    touched, square = {}, 0.0
    for name, value in new.items():
        was = old[name]
        if pattern.search(name):
            if not torch.isfinite(value).all():
                raise EditError(f"{name} holds NaN or infinity after the edit: lower the method's step size or layers")
            touched[name] = value.to(was.dtype).contiguous()
            square += float((touched[name].double() - was.double()).norm()) ** 2
        elif not torch.equal(value.to(was.dtype), was):
            raise EditError(f"{name} was changed, which {trainable!r} does not find")
    if not square:
        raise EditError("the edit changed nothing: look at the log for what the editor said of each fact")
    return touched, square**0.5


def bytes_of(tensors: Mapping[str, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
