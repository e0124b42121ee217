"""From a model and a corpus to second moments, which EasyEdit reads too, and to directions."""

from __future__ import annotations

import importlib.util
import json
import re
import types
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.tools import protect

pytestmark = pytest.mark.integration


def runningstats() -> types.ModuleType:
    """EasyEdit's own module by its own name; the package around it imports hydra and more."""
    package = importlib.util.find_spec("easyeditor")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "util" / "runningstats.py"
    spec = importlib.util.spec_from_file_location("easyeditor.util.runningstats", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_moments_are_easyedits_and_kept(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers

    result = bench.find()
    first = Path(bench.directions).read_bytes()
    expected, tokens = bench.moments()
    assert result["moments"] == "computed" and result["tokens"] == tokens and result["matrices"] == len(expected)
    files = {f.name.partition("_float32_mom2_3.npz")[0]: f for f in bench.cache.rglob("*.npz")}
    assert files.keys() == expected.keys()
    assert result["moments_bytes"] == sum({f.stat().st_ino: f.stat().st_size for f in files.values()}.values())

    stats = runningstats()
    for name, file in files.items():
        stat = stats.CombinedStat(mom2=stats.SecondMoment())
        assert list(stats.tally(stat, None, cache=str(file), sample_size=3, quiet=True)) == [], "it asks for no data"
        assert stat.mom2.count == tokens
        assert torch.allclose(stat.mom2.mom2, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))
        assert str(stats.numpy.load(file)["mom2.constructor"]) == stat.mom2.state_dict()["constructor"]

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    again = bench.find()
    assert again["moments"] == "from the cache" and Path(bench.directions).read_bytes() == first
    with pytest.raises(AssertionError, match="the model was loaded"):
        bench.find(texts=2)


def test_a_file_of_easyedits_is_used(llama: Any) -> None:
    import torch

    from kedit_glue import protection

    llama.find()
    (file,) = llama.cache.rglob("*.1.mlp.down_proj_*.npz")
    stats = runningstats()
    own = stats.CombinedStat(mom2=stats.SecondMoment())
    own.add(torch.eye(256)[:6] * torch.arange(6.0, 0, -1)[:, None])
    stats.save_cached_state(str(file), own, {"sample_size": 3})
    result = llama.find(trainable=r"\.1\.mlp\.down_proj\.")
    assert (result["moments"], result["tokens"], result["matrices"]) == ("from the cache", 6, 1)
    assert result["energy"] == pytest.approx(1.0)
    (vectors,) = protection.read(llama.directions).vectors.values()
    assert torch.allclose(vectors.abs(), torch.eye(256)[:, :6])


def test_only_what_is_missing_is_computed(llama: Any) -> None:
    llama.find(trainable=r"\.0\.mlp\.")
    old = {file: file.stat().st_mtime_ns for file in llama.cache.rglob("*.npz")}
    assert llama.find()["moments"] == "computed"
    assert len(list(llama.cache.rglob("*.npz"))) == 2 * len(old) == 6
    assert all(file.stat().st_mtime_ns == time for file, time in old.items())


def test_matrices_that_read_the_same_input_share_a_file(llama: Any) -> None:
    import torch

    from kedit_glue import protection

    llama.find()
    gate, up = (next(llama.cache.rglob(f"*.0.mlp.{m}_proj_*")) for m in ("gate", "up"))
    assert gate.samefile(up)
    vectors = protection.read(llama.directions).vectors
    name = "model.layers.0.mlp.{}_proj.weight"
    assert torch.equal(vectors[name.format("gate")], vectors[name.format("up")])


def test_padding_and_batches_do_not_count(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    found = []
    for batch in (1, 2, 16):
        monkeypatch.setattr("kedit_glue.tools.moments.BATCH", batch)
        llama.find(cache=str(llama.folder / f"cache{batch}"))
        (file,) = (llama.folder / f"cache{batch}").rglob("*.1.mlp.down_proj_*.npz")
        found.append(numpy.load(file)["mom2.mom2"])
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4, abs=1e-4)


def test_a_module_behind_the_last_layer(llama: Any) -> None:
    from transformers import AutoTokenizer

    from kedit_glue.tools.moments import second_moments

    tokenizer = AutoTokenizer.from_pretrained(llama.source)
    down = "model.layers.1.mlp.down_proj"
    sums, _, _ = second_moments(llama.load(), tokenizer, llama.texts, ["lm_head", down], lambda event: None)
    assert sums["lm_head"].shape == (64, 64)
    alone, _, _ = second_moments(llama.load(), tokenizer, llama.texts, [down], lambda event: None)
    assert (alone[down] == sums[down]).all()


def test_a_device_gives_the_same_eigenvectors() -> None:
    import numpy

    rows = numpy.random.default_rng(0).standard_normal((40, 9)).astype(numpy.float32) * numpy.arange(9, 0, -1)
    moment = (rows.T @ rows).astype(numpy.float32)
    (values, vectors), (others, columns) = (protect.eigenvectors(moment, 4, device) for device in ("cpu", "cpu:0"))
    assert others == pytest.approx(values, rel=1e-6) and (numpy.diff(values) < 0).all()
    assert abs(vectors.T @ columns) == pytest.approx(numpy.eye(4), abs=1e-5)


def test_energy_gives_each_matrix_its_own_number(llama: Any) -> None:
    from safetensors import safe_open

    from kedit_glue.protection import ABOUT

    llama.find(directions=None, energy=0.9)
    expected, _ = llama.moments()
    with safe_open(llama.directions, framework="pt") as opened:
        about = json.loads(opened.metadata()[ABOUT])
        assert about["mode"] == "hard" and about["k"].keys() == set(opened.keys())
        for name, count in about["k"].items():
            vectors = opened.get_tensor(name)
            moment = expected[name.removesuffix(".weight")]
            held = [float((vectors[:, :n].T @ moment @ vectors[:, :n]).trace() / moment.trace()) for n in (-1, None)]
            assert vectors.shape[1] == count and held[0] < 0.9 <= held[1] + 1e-6, name
    assert len(set(about["k"].values())) > 1


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("embed_tokens", "only linear layers have input directions; model.embed_tokens.weight belongs to a Embedding"),
        (r"\.7\.mlp", "no matrix of the model matches '\\\\.7\\\\.mlp': check train.modules and train.layers"),
    ],
)
def test_what_cannot_be_protected_is_named(llama: Any, trainable: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        llama.find(trainable=trainable)


def test_a_matrix_is_named_that_has_too_few_inputs(llama: Any) -> None:
    message = r"layers\.0\.mlp\.gate_proj\.weight: protect\.directions is 64, a matrix has only 64 inputs"
    with pytest.raises(ValueError, match=message):
        llama.find(directions=64)


def test_the_cost_is_told(llama: Any) -> None:
    events: list[dict[str, Any]] = []
    llama.find()
    job = {"model": str(llama.source), "corpus": str(llama.folder / "small.txt"), "trainable": llama.ffn}
    more = {"directions": 3, "device": "cpu", "trust_remote_code": False, "cache": str(llama.cache)}
    protect.directions({**job, **more, "output": llama.directions}, lambda event: events.append(dict(event)))
    assert [e["position"] for e in events if e["event"] == "directions"] == list(range(1, 7))
    (said,) = [e["text"] for e in events if e["event"] == "say"]
    assert re.fullmatch(
        r"second moments over \d+ tokens from the cache in \d+\.\d s; 3 directions a matrix in \d+\.\d s, "
        r"they hold \d+\.\d% of the inputs' energy; \d MB kept in .+/stats/tiny-\w+/small-\w+-96_stats",
        said,
    )
