"""A data set as corpus: a local folder stands for one of the hub's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedit_glue.corpus import CorpusError, read_corpus

pytestmark = pytest.mark.integration


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``owner/name`` below the current folder, offline."""
    import datasets

    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    records = [{"text": text, "n": n} for n, text in enumerate(["one", " ", "two", "three"])]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "test.jsonl").write_text('{"text": "other", "n": 0}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return folder


def test_texts_of_a_data_set(data_set: Path) -> None:
    assert read_corpus("owner/name") == ["one", "two", "three"]
    assert read_corpus("owner/name", 2) == ["one", "two"]
    assert read_corpus("owner/name:test") == ["other"]
    assert read_corpus(str(data_set)) == ["one", "two", "three"]


def test_a_data_set_of_several_configurations(data_set: Path) -> None:
    """As WikiText and Wikipedia have them: none is the default."""
    (data_set / "README.md").write_text(
        "---\nconfigs:\n"
        "- {config_name: raw, data_files: train.jsonl}\n"
        "- {config_name: clean, data_files: test.jsonl}\n---\n"
    )
    assert read_corpus("owner/name:raw:train") == ["one", "two", "three"]
    assert read_corpus("owner/name:clean:train") == ["other"]
    with pytest.raises(CorpusError, match=r"(?s)owner/name \(split train\) cannot be read: .*raw.*clean"):
        read_corpus("owner/name")
    with pytest.raises(CorpusError, match=r"owner/name \(configuration dirty, split train\) cannot be read: .*dirty"):
        read_corpus("owner/name:dirty:train")


def test_no_more_is_read_than_is_asked_for(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedit_glue.corpus.FROM_DATA_SET", 2)
    assert read_corpus("owner/name") == ["one", "two"]


def test_a_data_set_that_cannot_be_read(data_set: Path) -> None:
    with pytest.raises(CorpusError, match=r"owner/name \(split dev\) cannot be read: .*dev"):
        read_corpus("owner/name:dev")
    with pytest.raises(CorpusError, match=r"nobody/nothing \(split train\) cannot be read: .*Offline only a file"):
        read_corpus("nobody/nothing")
    (data_set / "test.jsonl").unlink()
    (data_set / "train.jsonl").write_text('{"body": "one", "title": "two"}\n')
    with pytest.raises(CorpusError, match="data set owner/name has no column 'text'; its columns are body, title"):
        read_corpus("owner/name")
    (data_set / "train.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(CorpusError, match="data set owner/name holds no text"):
        read_corpus("owner/name")
