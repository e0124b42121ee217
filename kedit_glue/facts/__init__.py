"""Facts to teach, from any of the formats that people have them in.

>>> facts = load(Path("recipes/data/demo_facts.json"), limit=40)    # doctest: +SKIP
>>> print("\\n".join(summary(facts)))                                # doctest: +SKIP
"""

from __future__ import annotations

from kedit_glue.facts.edit import Aim, Edit, FactSet, Probe, Unusable
from kedit_glue.facts.errors import FactsError
from kedit_glue.facts.loading import FORMATS, load
from kedit_glue.facts.report import Counts, counts, summary

__all__ = [
    "FORMATS",
    "Aim",
    "Counts",
    "Edit",
    "FactSet",
    "FactsError",
    "Probe",
    "Unusable",
    "counts",
    "load",
    "summary",
]
