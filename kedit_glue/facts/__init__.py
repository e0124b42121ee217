"""Facts to teach, from any of the formats that people have them in.

>>> facts = load(Path("recipes/data/demo_facts.json"), limit=40)    # doctest: +SKIP
>>> print("\\n".join(summary(facts)))                                # doctest: +SKIP
"""

from __future__ import annotations

from kedit_glue.facts.edit import Edit, FactSet, Probe, Unusable
from kedit_glue.facts.errors import FactsError
from kedit_glue.facts.loading import FORMATS, load
from kedit_glue.facts.report import summary

__all__ = ["FORMATS", "Edit", "FactSet", "FactsError", "Probe", "Unusable", "load", "summary"]
