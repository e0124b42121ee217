"""Generated answers against accepted ones: SQuAD's normalization, exact match, containment."""

from __future__ import annotations

import pytest

from kedit_glue.generated import contains, exact_match, normalized


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada Moss", "ada moss"),
        ("The Hague", "hague"),
        ("the a an", "the a an"),  # nothing would be left
        ("a theatre, an answer", "theatre answer"),  # whole words alone are articles
        ("Athens", "athens"),
        ("A.", "a."),
        ("U.S.A.", "usa"),
        ("Jean-Luc", "jeanluc"),
        ("it's", "its"),
        ("3.14", "314"),
        ("  two \n\t words ", "two words"),
        ("\u00a0no\u2003break ", "no break"),  # NFKC makes both plain blanks
        ("\uff2c\uff4f\uff4e\uff44\uff4f\uff4e\uff01 \uff12\uff10", "london 20"),  # full-width letters, mark, digits
        ("\ufb01ne", "fine"),  # a ligature
        ("Cafe\u0301", "caf\u00e9"),  # a combining accent
        ("STRASSE", "strasse"),
        ("Straße", "straße"),
        ("東京。", "東京。"),
        ("", ""),
        (" \n", ""),
        ("$", "$"),
        (" ? ! ", "? !"),
    ],
)
def test_normalized_as_squad_does(text: str, expected: str) -> None:
    assert normalized(text) == expected
    assert normalized(expected) == expected, "once more changes nothing"


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "contained"),
    [
        ("Paris", ["Paris"], True, True),
        ("the  PARIS.", ["Paris"], True, True),
        ("Paris, France", ["Paris"], False, True),
        ("It is Paris", ["Paris"], False, True),
        ("Parisian", ["Paris"], False, False),  # whole words
        ("New York City", ["York City", "NYC"], False, True),
        ("York", ["New York"], False, False),
        ("NYC", ["New York", "NYC"], True, True),  # an alias
        ("in N.Y.C. they say", ["New York", "NYC"], False, True),
        ("1945", ["194"], False, False),
        ("in the 1940 s", ["1940s"], False, False),
        ("\uff11\uff19\uff14\uff15", ["1945"], True, True),
        ("United States of America", ["the United States of America"], True, True),
        ("London and Paris", ["Berlin", "Paris"], False, True),
        ("", ["Paris"], False, False),
        ("", ["The"], False, False),  # an answer of articles is no empty answer
        ("...", ["$"], False, False),
        ("$", ["$"], True, True),
        ("", [""], True, False),
        ("Paris", [""], False, False),  # an empty one is in nothing
        ("Paris", [], False, False),
    ],
)
def test_exact_match_and_containment(answer: str, accepted: list[str], exact: bool, contained: bool) -> None:
    assert exact_match(answer, accepted) is exact
    assert contains(answer, accepted) is contained
