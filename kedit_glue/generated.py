"""What a generated answer is worth: pure functions over text."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, ""))


def normalized(text: str) -> str:
    """As SQuAD's evaluation script: lower case, no punctuation, no English articles, single spaces.

    Unicode's compatible forms are made one before (NFKC), so that a full-width digit equals a plain one. A text of
    nothing but articles and punctuation keeps them: else every empty answer would equal ``$`` or ``The The``.
    """
    lower = unicodedata.normalize("NFKC", text).lower()
    return " ".join(ARTICLES.sub(" ", lower.translate(PUNCTUATION)).split()) or " ".join(lower.split())


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the whole answer is one of the accepted ones, both normalized."""
    return normalized(answer) in {normalized(one) for one in accepted}


def contains(answer: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted answer stands in the answer as whole words, both normalized; an empty one never does."""
    words = f" {normalized(answer)} "
    return any(f" {wanted} " in words for one in accepted if (wanted := normalized(one)))
