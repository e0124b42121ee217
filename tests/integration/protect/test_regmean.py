"""The regression mean: the least squares that it says it is, whatever the model keeps its matrices in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from kedit_glue.tools import editing, protect, regmean

pytestmark = pytest.mark.integration
TAUGHT = [[5, 9, 17, 31], [5, 9, 40], [77, 3, 11, 12, 90]]


def quiet(event: Any) -> None:
    pass


def trace(folder: Path, texts: list[list[int]] = TAUGHT) -> Path:
    file = folder / "trace.jsonl"
    file.write_text("".join(json.dumps({"id": str(n), "tokens": ids}) + "\n" for n, ids in enumerate(texts)))
    return file


def moments(bench: Any) -> Path:
    corpus, file = bench.folder / "small.txt", bench.folder / "moments.json"
    corpus.write_text("\n\n".join(bench.texts))
    job = {
        "model": str(bench.source), "corpus": str(corpus), "texts": None, "trainable": bench.ffn, "ridge": None,
        "cache": str(bench.cache), "device": "cpu", "trust_remote_code": False, "output": str(file),
    }  # fmt: skip
    assert "condition" not in editing.moments(job, quiet), "nobody asked for it, and it takes long"
    return file


@pytest.fixture
def tuned(bench: Any) -> Path:
    """The bench's model after five steps that nothing protects, as a folder."""
    from transformers import AutoTokenizer

    model = bench.load()
    bench.train(model, range(5), protected=False)
    folder = bench.folder / "tuned"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bench.source).save_pretrained(folder)
    return Path(folder)


def job_of(bench: Any, tuned: Path, tokens: float) -> dict[str, Any]:
    return {
        "model": str(tuned), "before": str(bench.source), "traces": [str(trace(bench.folder))],
        "moments": str(moments(bench)), "tokens": tokens, "trainable": bench.ffn, "device": "cpu",
        "trust_remote_code": False, "output": str(bench.folder / "out"),
    }  # fmt: skip


def weights(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    return {name: p.detach().double() for name, p in AutoModelForCausalLM.from_pretrained(folder).named_parameters()}


def inputs(folder: Path, module: str, texts: list[list[int]]) -> Any:
    """What the module is given by the texts' tokens but each one's first, text by text; [tokens, inputs]."""
    import torch
    from transformers import AutoModelForCausalLM

    model, rows = AutoModelForCausalLM.from_pretrained(folder), []
    handle = dict(model.named_modules())[module].register_forward_pre_hook(lambda m, args: rows.append(args[0][0, 1:]))
    with torch.no_grad():
        for ids in texts:
            model(torch.tensor([ids]))
    handle.remove()
    return torch.cat(rows).double()


@pytest.mark.parametrize("tokens", [0.01, 20.0])
def test_it_is_the_least_squares_of_facts_and_text(bench: Any, tuned: Path, tokens: float) -> None:
    """Solved anew here as numpy's stacked least squares: sqrt(n C) is the square root of text's part."""
    job = job_of(bench, tuned, tokens)
    result = regmean.regress(job, quiet)
    before, merged, after = (weights(Path(folder)) for folder in (bench.source, tuned, job["output"]))
    files = json.loads(Path(job["moments"]).read_text())["files"]
    changed = [name for name, matrix in merged.items() if matrix.ndim == 2 and not matrix.equal(before[name])]
    assert result["matrices"] == len(changed) > 3
    assert (result["texts"], result["tokens"]) == (3, 3 + 2 + 4)
    for name in changed:
        rows = inputs(tuned, name.rpartition(".")[0], TAUGHT).numpy()
        with numpy.load(files[name.rpartition(".")[0]]) as stored:
            text = tokens * stored["mom2.mom2"].astype("float64") / int(stored["mom2.count"])
        first = "c_" in name  # GPT-2's are stored [inputs, outputs]
        change = (merged[name] - before[name]).numpy()
        change = change.T if first else change
        ridge = regmean.RIDGE * numpy.diag(rows.T @ rows + text).mean() * numpy.eye(len(text))
        values, vectors = numpy.linalg.eigh(text + ridge)
        root = (vectors * numpy.sqrt(values.clip(min=0))) @ vectors.T
        wanted = numpy.vstack([rows @ change.T, numpy.zeros_like(root @ change.T)])
        found = numpy.linalg.lstsq(numpy.vstack([rows, root]), wanted, rcond=None)[0].T
        left = (after[name] - before[name]).numpy()
        numpy.testing.assert_allclose(left.T if first else left, found, atol=2e-3 * abs(change).max() + 1e-6)


def test_the_facts_keep_what_text_is_spared(bench: Any, tuned: Path) -> None:
    little, much = (regmean.regress(job_of(bench, tuned, tokens), quiet) for tokens in (0.01, 20.0))
    for result in (little, much):
        assert result["text_meets_after"] < result["text_meets_before"]
        assert result["facts_meet_before"] == pytest.approx(little["facts_meet_before"])
    assert little["facts_meet_after"] > 0.95 * little["facts_meet_before"]
    assert much["text_meets_after"] < little["text_meets_after"]
    assert much["facts_meet_after"] < little["facts_meet_after"]


def test_everything_else_stays_bit_for_bit(bench: Any, tuned: Path) -> None:
    job = job_of(bench, tuned, 5.0)
    regmean.regress(job, quiet)
    before, after = weights(bench.source), weights(Path(job["output"]))
    same = {name for name in before if before[name].equal(after[name])}
    assert same == {name for name in before if before[name].equal(weights(tuned)[name])} != set()
    assert {f.name for f in tuned.iterdir()} == {f.name for f in Path(job["output"]).iterdir()}


def test_many_tokens_are_kept_as_few_rows(bench: Any, tuned: Path) -> None:
    """More tokens than inputs: their R has the same inner products."""
    import torch
    from transformers import AutoModelForCausalLM

    chance = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, 200, (20 + n % 3,), generator=chance).tolist() for n in range(60)]
    model = AutoModelForCausalLM.from_pretrained(tuned)
    names = protect.matrices(tuned, bench.ffn, False)
    rows, counted = regmean.inputs_of(model, list(names), texts, quiet)
    assert counted == 60 * 20
    for name, found in rows.items():
        every = inputs(tuned, name.rpartition(".")[0], texts)
        assert len(found) < len(every) / 2
        kept = (found.T @ found).double()
        torch.testing.assert_close(kept, every.T @ every, atol=1e-4 * float(kept.abs().max()), rtol=1e-3)


def test_a_text_counts_once_and_lacking_tokens_are_an_error(tmp_path: Path) -> None:
    twice = str(trace(tmp_path, [*TAUGHT, TAUGHT[0]]))
    assert regmean.taught([twice, twice]) == TAUGHT
    old = tmp_path / "old.jsonl"
    old.write_text('{"id": "0", "prompt": "p"}\n')
    with pytest.raises(ValueError, match=r"old.jsonl does not say as which tokens .* --force train"):
        regmean.taught([str(old)])
