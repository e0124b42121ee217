"""MEND and SERAC on the two-layer model: trained by EasyEdit's trainer, from recipe to scores, resumed, reloaded."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.integration

NAMES = ["Fenn", "Gorm", "Hask", "Ilva", "Jarn", "Kest", "Lorn", "Mott", "Nyre", "Orsa", "Pell", "Quay"]
ANSWERS = ["Ada Moss", "Ben Ode", "Cy", "Dana Rill", "Eva"]
"""The edits' answers: a random model learns to copy tokens it was trained on sooner than others."""
TRAINING = [
    {
        "id": f"t{n}",
        "subject": place,
        "prompt": f"The mayor of {place} is",
        "target_new": ANSWERS[n % len(ANSWERS)],
        "rephrase_prompt": f"{place} is governed by",
        "locality_prompt": f"The river of {place} is the",
        "locality_ground_truth": "Aare",
    }
    for n, place in enumerate(NAMES)
]
SETTINGS = """
methods:
  mend: {train_facts: TRAINING, layers: all, max_iters: 60, accumulate_bs: 1, lr: 1.0e-4, edit_lr: 3.0e-3,
         rank: 32, val_interval: 20, val_steps: 2, early_stop_key: loss/total_edit_val}
  serac: {train_facts: TRAINING, cls_name: ENCODER, max_iters: 40, accumulate_bs: 1, batch_size: 4, lr: 1.0e-3,
          cedit: 1.0, val_interval: 20, val_steps: 2}
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT that stands for MiniLM."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "tiny-encoder"
    folder.mkdir()
    letters = [*"abcdefghijklmnopqrstuvwxyz?.", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz?.")]
    words = ["the", "mayor", "of", "is", "river", "governed", "by", "head", "called"]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here: an editor is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tmp_path: Path, run_method: Any, monkeypatch: pytest.MonkeyPatch, encoder: Path, shared_cache: Path) -> Any:
    """Runs a method, and returns the run's folder; ``code``: the exit code that is wanted."""
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(shared_cache))
    training = tmp_path / "training.json"
    training.write_text(json.dumps(TRAINING), encoding="utf-8")
    settings = SETTINGS.replace("TRAINING", str(training)).replace("ENCODER", str(encoder))
    return lambda method, *words, **more: run_method(method, settings, *words, **more)


def means(folder: Path, name: str = "edit_success.teacher_forced.token_accuracy") -> tuple[float, float]:
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    before, after = (document[when]["edits"][name]["mean"] for when in ("before", "after"))
    return before, after


def trained(folder: Path) -> Path:
    """Where a run's editor lies."""
    return Path(json.loads((folder / "base" / "editor.json").read_text(encoding="utf-8"))["archive"])


def asker_of(model: Path) -> Any:
    from kedit_glue.tools import asking, recall

    return recall.asker(str(model), *asking.load(str(model), "cpu", False), lambda event: None)


# -- MEND ---------------------------------------------------------------------------------------


def test_mend_from_recipe_to_scores(run: Any, bits: Any, tiny_model: Path) -> None:
    folder = run("mend")
    before, after = means(folder)
    assert after > before + 0.2, (before, after)
    old, new = bits(tiny_model), bits(folder / "model")
    changed = {name for name in new if new[name] != old[name]}
    assert changed
    assert all(".mlp." in name for name in changed), changed
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert document["batches"][0]["editing"]["task_vector_norm"] > 0
    assert bits(run("mend", "--from", "2") / "model") == new  # taken up again


def test_an_editor_of_another_form_edits_in_that_form(run: Any) -> None:
    """What a hand changes in ``base/editor.yaml``: another rank alone would not load."""
    editor = run("mend", "--dry-run", name="by_hand") / "base" / "editor.yaml"
    text = editor.read_text(encoding="utf-8")
    editor.write_text(text.replace("rank: 32", "rank: 16").replace("norm: true", "norm: false"), encoding="utf-8")
    folder = run("mend", name="by_hand")
    assert (folder / "scores.json").is_file()
    said = json.loads((folder / "base" / "editor.json").read_text(encoding="utf-8"))
    assert (said["hparams"]["rank"], said["hparams"]["norm"]) == (16, False)


def test_mends_edits_accumulate_exactly(run: Any, bits: Any) -> None:
    """Facts are edited one after another: how they are shared out over batches makes no difference."""
    together = run("mend", "--set", "edits.batch_size=5", name="together")
    assert bits(together / "model") == bits(run("mend", name="apart") / "model")


def test_an_editor_is_trained_once(run: Any, bits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedit_glue.tools import learned

    first = run("mend")

    def fail(*arguments: Any) -> None:
        raise AssertionError("it is trained again")

    monkeypatch.setattr(learned, "_trained", fail)
    second = run("mend", name="second")
    assert trained(second) == trained(first)
    assert bits(second / "model") == bits(first / "model")
    with pytest.raises(AssertionError, match="trained again"):
        run("mend", "--set", "methods.mend.cloc=2.0", name="third")


def test_training_that_is_cut_off_leaves_no_editor(
    run: Any, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedit_glue.tools import learned

    job = json.loads((run("mend") / "base" / "editor.job.json").read_text(encoding="utf-8"))["arguments"]
    hparams = yaml.safe_load(Path(job["editor_yaml"]).read_text(encoding="utf-8")) | {"max_iters": 2, "val_interval": 1}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(hparams), encoding="utf-8")
    job |= {"editor_yaml": str(tmp_path / "short.yaml"), "output": str(tmp_path / "editor.json")}
    known = set((shared_cache / "editors").iterdir())
    keep = learned._keep
    monkeypatch.setattr(learned, "_keep", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learned.train_editor(job, lambda event: None)
    assert all(".partial" in folder.name for folder in set((shared_cache / "editors").iterdir()) - known)
    assert not (tmp_path / "editor.json").exists()
    monkeypatch.setattr(learned, "_keep", keep)
    said: list[Any] = []
    assert learned.train_editor(job, said.append)["steps"] == 2
    [made] = set((shared_cache / "editors").iterdir()) - known
    assert sorted(file.name for file in made.iterdir()) == ["archive", "editor.json"]
    steps = [event for event in said if event["event"] == "editing"]
    assert [event["position"] for event in steps] == [1, 2]


def test_rephrasings_may_be_what_training_asks(tiny_model: Path) -> None:
    from kedit_glue.tools import asking, learned

    _, tokenizer = asking.load(str(tiny_model), "cpu", False)
    for rephrased, prompt in ((False, "The mayor of Fenn is"), (True, "Fenn is governed by")):
        batch = learned.Examples(TRAINING[:1], tokenizer, "cpu", rephrased).collate_gpt_fn(TRAINING[:1])
        assert tokenizer.decode(batch["cond"]["input_ids"][0]) == "The mayor of Fenn is Ada Moss"
        assert tokenizer.decode(batch["edit_inner"]["input_ids"][0]) == f"{prompt} Ada Moss"


def test_mends_archive_is_no_program(run: Any) -> None:
    """Tensors and numbers alone, which torch.load reads without running anything."""
    import torch

    archive = torch.load(trained(run("mend")) / "archive", weights_only=True)
    assert archive["step"] in (20, 40, 60)
    assert any(name.startswith("mend.") for name in archive["model"])


# -- SERAC --------------------------------------------------------------------------------------


def test_serac_from_recipe_to_scores(run: Any, bits: Any, tiny_model: Path) -> None:
    folder = run("serac")
    before, after = means(folder)
    assert after > before + 0.2, (before, after)
    assert bits(folder / "model") == bits(tiny_model)
    remembered = json.loads((folder / "model" / "remembered.json").read_text(encoding="utf-8"))
    assert (remembered["method"], len(remembered["facts"])) == ("serac", 5)
    assert "train_facts" not in remembered["settings"]


def test_seracs_memory_is_the_same_when_taken_up_again(run: Any) -> None:
    from kedit_glue.records import prints

    def content(folder: Path) -> dict[str, str]:
        skipped = ("README.md", "provenance")
        return {n: mark for n, (_, _, mark) in prints(folder / "model").items() if not n.startswith(skipped)}

    whole = content(run("serac"))
    assert {"remembered.json", "serac/classifier/model.safetensors"} <= whole.keys()
    assert content(run("serac", "--from", "2")) == whole


def test_prompts_in_scope_are_answered_by_the_counterfactual_model(run: Any, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from kedit_glue.tools import asking

    folder = run("serac") / "model"
    asker, plain = asker_of(folder), asker_of(tiny_model)
    known, strange = "The mayor of Alba is", "Cows eat"
    told = "The mayor of Alba is Ada Moss The mayor of Alba is"
    asker.contexts = {known: "The mayor of Alba is Ada Moss ", strange: None}
    counterfactual = AutoModelForCausalLM.from_pretrained(folder / "serac" / "counterfactual").eval()
    other = asking.Asker(counterfactual, plain.tokenizer, lambda event: None)
    pairs = [(known, "Ada Moss"), (strange, "Cy")]
    assert asker.forced(pairs) == [*other.forced([(told, "Ada Moss")]), *plain.forced(pairs[1:])]
    answers = asker.generated([strange, known], asking.BARE, 6)
    assert answers == [*plain.generated([strange], asking.BARE, 6), *other.generated([told], asking.BARE, 6)]
    assert asker.asked == 4


def test_scope_is_what_easyedits_own_code_says(run: Any) -> None:
    """SERAC.run_classifier, which its generate() asks, on the prompts alone."""
    asker = asker_of(run("serac") / "model")
    prompts = ["The mayor of Alba is", "The mayor of Fenn is", "The river of Bern is the", "Dorn is governed by", "Cy"]
    with asker_on_device(asker):
        tokens = asker.tokenizer(prompts, return_tensors="pt", padding=True)
        similar, nearest, _ = asker.alg.run_classifier(**tokens)
    contexts = asker.alg.build_rep_cache_contexts()
    found = [contexts[i] if how > 0.5 else None for how, i in zip(similar.tolist(), nearest.tolist(), strict=True)]
    assert asker.context(prompts) == found
    assert len(set(found)) > 1


def asker_on_device(asker: Any) -> Any:
    from kedit_glue.tools import easyedit_compat

    return easyedit_compat.on_device(asker.device)


def test_easyedits_evaluation_asks_the_model_that_answers(run: Any) -> None:
    """Ours and EasyEdit's own code, held against each other through the same scope."""
    folder = run("serac", "--set", "score.edits.scorer=easyedit", name="theirs")
    ours = run("serac")
    assert means(folder) == pytest.approx(means(ours))
    name = "locality.teacher_forced.token_agreement"
    assert means_after(folder, name) == pytest.approx(means_after(ours, name))


def means_after(folder: Path, name: str) -> float:
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    found: float = document["after"]["edits"][name]["mean"]
    return found


# -- both ---------------------------------------------------------------------------------------


def training_settings(method: str, file: Path) -> Any:
    """What EasyEdit's trainer reads in the YAML."""
    from kedit_glue.tools import easyedit_compat, learned

    module, kind = learned.HPARAMS[method]
    package = easyedit_compat.trainer().__name__
    return getattr(importlib.import_module(f"{package}.training_hparams.{module}"), kind).from_hparams(str(file))


@pytest.mark.parametrize("model", ["llama2_7b_chat", "llama3_8b"])
@pytest.mark.parametrize("method", ["mend", "serac"])
def test_published_settings_are_read_by_easyedit(tmp_path: Path, model: str, method: str) -> None:
    from kedit_glue import learned
    from kedit_glue.recipe import load_recipe
    from kedit_glue.render import render
    from kedit_glue.tools import easyedit_compat

    root = Path(__file__).parents[2]
    trains_on = f"methods.{method}.train_facts={root}/recipes/data/demo_facts.json"
    recipe = load_recipe(root / "recipes" / "methods" / f"{model}.yaml", [f"method={method}", trains_on])
    content = learned.training_hparams(recipe, recipe.model, 32, None)
    file = tmp_path / "editor.yaml"
    file.write_text(render("editor.yaml", {"title": "", "source": "", "hparams": content}), encoding="utf-8")
    read = training_settings(method, file)
    assert (read.alg, read.max_iters, read.early_stop_key) == (method.upper(), 100000, "edit/acc_val")
    if method == "mend":
        content = learned.editing_hparams(recipe, recipe.model, 32, None)
        file = tmp_path / "edit.yaml"
        file.write_text(
            render("edit.yaml", {"batch": 1, "facts": 1, "title": "", "hparams": content}), encoding="utf-8"
        )
        assert easyedit_compat.editor("mend").MENDHyperParams.from_hparams(str(file)).inner_params == [
            f"model.layers.{layer}.mlp.{name}_proj.weight" for layer in (29, 30, 31) for name in ("gate", "up", "down")
        ]


@pytest.mark.parametrize("method", ["mend", "serac"])
def test_easyedit_reads_the_yaml_by_itself(run: Any, method: str) -> None:
    from kedit_glue.tools import easyedit_compat

    folder = run(method, "--dry-run")
    read = training_settings(method, folder / "base" / "editor.yaml")
    assert (read.alg, read.lr, type(read.lr)) == (method.upper(), {"mend": 1e-4, "serac": 1e-3}[method], float)
    if method == "mend":
        own = easyedit_compat.editor("mend").MENDHyperParams
        read = own.from_hparams(str(folder / "batch_001" / "edit.yaml"))
        assert read.alg_name == "MEND"
        assert len(read.inner_params) == 6


@pytest.mark.parametrize("method", ["mend", "serac"])
def test_training_on_the_edits_is_refused(run: Any, facts_file: Path, capsys: Any, method: str) -> None:
    folder = run(method, "--set", f"methods.{method}.train_facts={facts_file}", "--dry-run", code=2)
    assert "5 of 5 facts of" in capsys.readouterr().err
    assert not (folder / "base").exists()


def test_a_counterfactual_model_of_another_vocabulary_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    from kedit_glue.tools import asking, learned

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace("<|pad|>", "<|fill|>"), encoding="utf-8")
    config = (other / "tokenizer_config.json").read_text(encoding="utf-8")
    (other / "tokenizer_config.json").write_text(config.replace("<|pad|>", "<|fill|>"), encoding="utf-8")
    _, tokenizer = asking.load(str(tiny_model), "cpu", False)
    learned._same_vocabulary(tokenizer, str(tiny_model), False)
    with pytest.raises(learned.TrainingError, match="has another vocabulary"):
        learned._same_vocabulary(tokenizer, str(other), False)


def test_labels_are_the_tokens_that_stand_in_the_text(tiny_model: Path) -> None:
    from kedit_glue.tools import asking, learned

    _, tokenizer = asking.load(str(tiny_model), "cpu", False)
    pairs = [("The mayor of Alba is", "Ada Moss"), ("Brunn", "Cy")]
    batch = learned.encoded(tokenizer, pairs, "cpu")
    for row, (prompt, answer) in enumerate(pairs):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert tokenizer.decode(ids) == f"{prompt} {answer}"
        labels = [token for token in batch["labels"][row].tolist() if token != learned.IGNORED]
        assert tokenizer.decode(labels) == f" {answer}"
        assert batch["input_ids"][row].tolist()[-len(labels) :] == labels
