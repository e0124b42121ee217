"""Which format a file has: from its extension and the keys of its first records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kedit_glue.facts.errors import FactsError, names, nearest, refused
from kedit_glue.facts.fields import Record

LOOK_AT = 20
"""So many records vote: a broken one among them does not hide the format."""

NEEDS = {
    "knowedit": ("prompt", "target_new"),
    "counterfact": ("prompt", "target_new", "locality_prompt", "ground_truth"),
    "zsre": ("src", "alt"),
    "wikibigedit": ("prompt", "target_new", "subject", "rephrase_prompt", "locality_prompt"),
    "qaedit": ("prompt", "target", "rephrase", "locality"),
    "mquake": ("requested_rewrite", "questions", "new_answer"),
    "rippleedits": ("edit",),
    "records": ("prompt", "target_new"),
}
OTHER_NEEDS = {
    "knowedit": "a portability or locality object; or text, labels (WikiBio); or ent, pos, neg (ConvSent); or one "
    "object with K_F, K_R or success, locality (Sanitation)",
    "counterfact": "or requested_rewrite, an object (ROME)",
    "wikibigedit": "or update, ans",
    "mquake": "requested_rewrite being a list",
    "rippleedits": "an object with prompt; and Relation_Specificity, Logical_Generalization …",
}


OURS = ("rephrase_prompts", "portability_prompt")
NUMBERED = re.compile(r"rephrase_prompt_\d+")


def has(raw: Record, *keys: str) -> bool:
    return all(key in raw for key in keys)


def is_ours(raw: Record) -> bool:
    """With keys that no other format reads; several of these share the rest."""
    both = has(raw, "locality_prompt") and isinstance(raw.get("locality"), Mapping)
    own = both or any(key in OURS or NUMBERED.fullmatch(key) for key in raw)
    return has(raw, "prompt", "target_new") and own


def is_counterfact(raw: Record) -> bool:
    flat = has(raw, "prompt", "target_new", "locality_prompt")
    return "requested_rewrite" in raw or (flat and ("ground_truth" in raw or "case_id" in raw))


def is_wikibigedit(raw: Record) -> bool:
    return has(raw, *NEEDS["wikibigedit"]) or has(raw, "update", "ans")


def is_knowedit(raw: Record) -> bool:
    probes = (raw.get("portability"), raw.get("locality"))
    edit = has(raw, "prompt", "target_new") and any(isinstance(found, Mapping) for found in probes)
    return edit or ("prompt" not in raw and (has(raw, "text", "labels") or has(raw, "ent", "pos", "neg")))


def is_qaedit(raw: Record) -> bool:
    marks = ("rephrase", "locality", "source")
    return has(raw, "prompt", "target") and "target_new" not in raw and any(key in raw for key in marks)


def is_rippleedits(raw: Record) -> bool:
    edit = raw.get("edit")
    return isinstance(edit, Mapping) and "prompt" in edit


TESTS: tuple[tuple[str, Callable[[Record], bool]], ...] = (
    ("records", is_ours),
    ("mquake", lambda raw: isinstance(raw.get("requested_rewrite"), list)),
    ("rippleedits", is_rippleedits),
    ("counterfact", is_counterfact),
    ("wikibigedit", is_wikibigedit),
    ("zsre", lambda raw: has(raw, "src", "alt")),
    ("qaedit", is_qaedit),
    ("knowedit", is_knowedit),
    ("records", lambda raw: has(raw, "prompt", "target_new")),
)


def format_of(raw: Record) -> str | None:
    return next((name for name, test in TESTS if test(raw)), None)


def detect(path: Path, records: Sequence[Record]) -> str:
    """The format that most of the first records have."""
    first = records[:LOOK_AT]
    votes = Counter(name for name in map(format_of, first) if name)
    if not votes:
        raise nothing_fits(path, first)
    return votes.most_common(1)[0][0]


def nothing_fits(path: Path, records: Sequence[Record]) -> FactsError:
    found = list(dict.fromkeys(key for raw in records for key in raw))
    return refused(
        path,
        f"no known format has these keys: {names(found)}",
        "; ".join(needs(name) for name in NEEDS),
        suggestion(found),
    )


def needs(name: str) -> str:
    other = f" ({OTHER_NEEDS[name]})" if name in OTHER_NEEDS else ""
    return f"{name}: {', '.join(NEEDS[name])}{other}"


def suggestion(found: Sequence[str]) -> str:
    """Renames that bring the keys to our own records, or, where none is likely, what those are."""
    missing = [key for key in NEEDS["records"] if key not in found]
    known = {key for keys in NEEDS.values() for key in keys} - {"target"}
    renames = []
    for key in found:
        like = None if key in known else nearest(key, missing)
        if like:
            renames.append(f"{key!r} to {like!r}")
            missing.remove(like)
    if renames:
        return f"rename {', '.join(renames)}"
    return "give each record at least prompt and target_new"
