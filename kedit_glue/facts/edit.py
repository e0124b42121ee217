"""The one type every data format becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Aim = Literal["modification", "insertion", "erasure", "sentiment"]
"""What an edit is for, in KnowEdit's terms; it says how success is scored.

``modification`` and ``insertion`` (of what no model could know) teach ``target_new``; ``erasure`` withholds
``ground_truth``, with ``target_new`` as what is said instead; ``sentiment`` sets the sentiment about ``subject``.
"""


@dataclass(frozen=True)
class Probe:
    """A prompt beside the edit itself, and what answers it.

    ``answers`` holds what is accepted, the preferred one first and its aliases next; never empty.
    """

    prompt: str
    answers: tuple[str, ...]
    also: tuple[tuple[str, ...], ...] = ()
    """What a full answer names besides, each with its aliases: the siblings after the first (RippleEdits)."""
    test: str = ""
    """Probes of the same kind with the same name here are one test, unique in the file; empty: a test of its own.
    It is passed by any of its probes; with kind ``Single_Hop`` (MQuAKE) by all of them."""
    conditions: tuple[Probe, ...] = ()
    """What the model must answer rightly before the edit for the probe to count (RippleEdits)."""


def _no_probes() -> Mapping[str, tuple[Probe, ...]]:
    return {}  # not a MappingProxyType: that can neither be pickled nor go through asdict()


@dataclass(frozen=True)
class Edit:
    """One fact to teach: after the edit the model continues ``prompt`` with ``target_new``.

    ``portability`` and ``locality`` map a kind, in KnowEdit's names (``Reasoning``,
    ``Subject_Aliasing``, ``Relation_Specificity`` …), to its probes.
    """

    id: str
    prompt: str
    target_new: str
    subject: str | None = None
    ground_truth: str | None = None
    """What the model, or the world, says before the edit; None where the data do not tell."""
    rephrase_prompts: tuple[str, ...] = ()
    portability: Mapping[str, tuple[Probe, ...]] = field(default_factory=_no_probes)
    locality: Mapping[str, tuple[Probe, ...]] = field(default_factory=_no_probes)
    position: str = ""
    """Where the record stands in its file: ``record 12``, ``line 7``, ``record 3, rewrite 2``, ``K_F 5``."""
    aim: Aim = "modification"
    responses: Mapping[str, tuple[Probe, ...]] = field(default_factory=_no_probes)
    """With aim ``sentiment``: questions about ``subject``, each with one response whose likelihood is compared, under
    ``Wanted`` (of the sentiment that ``target_new`` has) and ``Opposite``; both have some. Else empty."""


@dataclass(frozen=True)
class Unusable:
    """A record, or a part of one, that was left out: where, what is wrong, and of which kind."""

    position: str
    kind: str
    """``duplicate``, ``contradiction``, ``empty field``, ``missing field``, ``bad record``; and of parts
    ``bad probe``, ``bad subject`` (one that does not stand in its prompt), ``trimmed text`` (its outer white space)."""
    message: str
    whole_record: bool = True
    """False where only a probe, or the subject, was dropped and the record itself is used."""


@dataclass(frozen=True)
class FactSet:
    """What a file held: the sound edits in their order, and what was left out."""

    edits: tuple[Edit, ...]
    unusable: tuple[Unusable, ...]
    format: str
    records_read: int
    source: str = ""
    """The name of the file, or of both files (Sanitation's)."""
    without_subject: int = 0
    """Sound facts of the file that were passed over because they cannot be looked up at a subject."""
