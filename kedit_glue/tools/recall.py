"""Methods that leave the weights alone and remember facts beside them: kept in the model's folder, used when asked.

ICE (in-context editing: Cohen et al., Evaluating the Ripple Effects of Knowledge Editing, arXiv 2307.12976) puts the
facts that are nearest to a prompt in front of it, in the words of EasyEdit's IKE (``models/ike/ike_main.py:53``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.atomic import link_or_copy, write_json
from kedit_glue.methods import MEMORY
from kedit_glue.models import encoder
from kedit_glue.tools import Emit, asking
from kedit_glue.tools.asking import Forced, Generated

FILE = "remembered.json"
"""In a model's folder: the method, its settings, the hparams that its editor was trained by, and the facts."""


def remember(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``: the model of ``job['model']`` as it is, and its memory with new facts.

    ``job``: ``facts`` (JSON list), ``method``, ``settings`` (its section of the recipe), ``editor`` (what that stage
    wrote, where the method has one). A prompt that is remembered already gets the new answer. Returns ``facts``,
    ``remembered`` (facts in memory) and ``memory_bytes`` (of all that is needed beside the model's own weights: the
    file, and the models that find or answer facts).
    """
    model, output = Path(job["model"]), Path(job["output"])
    new = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
    known = json.loads((model / FILE).read_text(encoding="utf-8"))["facts"] if (model / FILE).is_file() else []
    kept = {fact["prompt"]: fact for fact in known}
    kept |= {fact["prompt"]: {key: fact[key] for key in ("id", "prompt", "target_new")} for fact in new}
    output.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.is_file() and file.name != FILE:
            link_or_copy(file, output / file.name)
    trained_by = _take_along(Path(job["editor"]), output) if job.get("editor") else {}
    memory = {"method": job["method"], "settings": job["settings"], **trained_by, "facts": list(kept.values())}
    write_json(output / FILE, memory)
    beside = [output / FILE, *_files(output / MEMORY if job.get("editor") else _encoder(job["settings"]))]
    size = sum(file.stat().st_size for file in beside)
    return {"facts": len(new), "remembered": len(kept), "memory_bytes": size}


def _encoder(settings: Mapping[str, Any]) -> Path:
    return Path(settings.get("encoder") or encoder())


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def asker(folder: str, model: Any, tokenizer: Any, emit: Emit) -> asking.Asker:
    """Who is asked about a model: the model alone, or with what is remembered in its folder."""
    file = Path(folder) / FILE
    if not file.is_file():
        return asking.Asker(model, tokenizer, emit)
    memory = json.loads(file.read_text(encoding="utf-8"))
    if memory["method"] == "serac":
        from kedit_glue.tools.scope import Scoped

        return Scoped(Path(folder), model, tokenizer, emit, memory)
    return Remembering(model, tokenizer, emit, memory)


def _take_along(editor: Path, output: Path) -> dict[str, Any]:
    """Link the models of a trained editor into a model's folder; ``hparams`` that it was trained by.

    Raises FileNotFoundError where they are gone.
    """
    said = json.loads(editor.read_text(encoding="utf-8"))
    trained = Path(said["archive"])
    if not trained.is_dir():
        raise FileNotFoundError(f"the trained editor {trained} is gone: run the same command with --force editor")
    for file in trained.rglob("*"):
        if file.is_file() and file.parent != trained:
            target = output / MEMORY / file.relative_to(trained)
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, target)
    return {"hparams": said.get("hparams", {})}


class Remembering(asking.Asker):
    """A model that is told the facts nearest to each prompt before it is asked."""

    def __init__(self, model: Any, tokenizer: Any, emit: Emit, memory: Mapping[str, Any]):
        super().__init__(model, tokenizer, emit)
        self.facts, self.settings = memory["facts"], memory["settings"]
        self.told: dict[str, str] = {}
        self._encoder: Any = None
        self._keys: Any = None

    def forced(self, pairs: Sequence[tuple[str, str]]) -> list[Forced]:
        told = self.put([prompt for prompt, _ in pairs])
        return super().forced([(prompt, answer) for prompt, (_, answer) in zip(told, pairs, strict=True)])

    def generated(self, prompts: Sequence[str], template: str, most_tokens: int) -> list[Generated]:
        return super().generated(self.put(prompts), template, most_tokens)

    def put(self, prompts: Sequence[str]) -> list[str]:
        """Each prompt behind the facts that are near enough to it, the nearest last."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.told]
        for prompt, similar in zip(new, self._similar(new) if new else (), strict=True):
            best = sorted(range(len(self.facts)), key=lambda n: similar[n])[-self.settings["k"] :]
            chosen = [self.facts[n] for n in best if similar[n] >= self.settings["least_similarity"]]
            lines = "".join(f"New Fact: {fact['prompt']} {fact['target_new']}\n" for fact in chosen)
            self.told[prompt] = f"{lines}Prompt: {prompt}" if chosen else prompt
        return [self.told[prompt] for prompt in prompts]

    def _similar(self, prompts: Sequence[str]) -> Any:
        """Cosine similarity [prompts, facts], -1 to 1."""
        from sentence_transformers import SentenceTransformer

        if self._encoder is None:
            folder = str(_encoder(self.settings))
            self._encoder = SentenceTransformer(folder, device=str(self.model.device), local_files_only=True)
            self._keys = self._embedded([fact["prompt"] for fact in self.facts])
        return self._embedded(prompts) @ self._keys.T

    def _embedded(self, texts: Sequence[str]) -> Any:
        return self._encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
