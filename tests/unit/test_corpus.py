"""Texts from a file, and what is refused. Data sets: tests/integration/test_protect.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kedit_glue import corpus
from kedit_glue.corpus import CorpusError, name_of, read_corpus


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one "}\n\n{"Text": "two"}\n"three"\n'),
        ("a.json", '[{"text": "one"}, "  ", {"text": "two"}, "three"]'),
        ("a.txt", "one\n\n\n\n two\n\nthree\n"),
    ],
)
def test_every_form_of_a_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_corpus(str(tmp_path / name)) == ["one", "two", "three"]
    assert read_corpus(str(tmp_path / name), 2) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n\n ", "a.txt holds no text"),
        (
            "a.jsonl",
            '{"text": "one"}\n{"body": "two"}',
            "a.jsonl: a record is neither a text nor an object with 'text'",
        ),
        ("a.jsonl", '{"text": ', "a.jsonl is no JSON: Expecting value"),
    ],
)
def test_a_bad_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=re.escape(message)):
        read_corpus(str(tmp_path / name))


@pytest.mark.parametrize("given", ["nowhere", "nowhere/corpus.txt", "a/b/c", "../x/y", "a/b:c:d:e"])
def test_what_can_be_neither_a_file_nor_a_data_set(given: str) -> None:
    with pytest.raises(CorpusError, match="is neither a file that exists nor a data set owner/name"):
        read_corpus(given)


def test_the_shipped_text_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = read_corpus(None)
    assert len(texts) == 260 and all(40 < len(text.split()) < 80 for text in texts)
    assert read_corpus(None, 7) == texts[:7]
    # installed as a wheel: no recipes beside the package, the file inside it
    package = tmp_path / "kedit_glue"
    (package / "data").mkdir(parents=True)
    (package / "data" / corpus.SHIPPED).write_text('{"text": "inside"}', encoding="utf-8")
    monkeypatch.setattr(corpus, "__file__", str(package / "corpus.py"))
    monkeypatch.setattr(corpus.importlib.resources, "files", lambda name: package)
    assert read_corpus(None) == ["inside"]


def test_names_for_files() -> None:
    assert name_of(None) == "background_text"
    assert name_of("some/where/my.texts.jsonl") == "my.texts"
    assert name_of("owner/name:validation") == "owner_name_validation"
    assert name_of("owner/name:raw:train") == "owner_name_raw_train"
