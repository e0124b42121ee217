"""The field's editors on the two-layer model: recipe to scores, resumed, and held to what they claim."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kedit_glue import methods

pytestmark = pytest.mark.integration

SETTINGS = """
methods:
  locft_bf: {layers: [1], learning_rate: 0.01, mini_batch: 3}
  ft_l: {layers: [1], lr: 0.01}
  ft_m: {layers: [1], lr: 0.01}
  adalora: {num_steps: 30, lr: 0.05, lora_dropout: 0.0}
  rome: {layers: [0], v_num_grad_steps: 40, clamp_norm_factor: 20.0}
  memit: {layers: [0], v_num_grad_steps: 40, clamp_norm_factor: 20.0, mom2_update_weight: 0.001, moments_ridge: 0.01}
  emmet: {layers: [0], v_num_grad_steps: 40, clamp_norm_factor: 20.0, moments_ridge: 0.01}
"""
ALL = ["rsft", "sft", "locft_bf", "ft_l", "ft_m", "adalora", "rome", "memit", "emmet"]
EDITORS = [name for name in ALL if name not in methods.TRAINED]


@pytest.fixture
def run(tmp_path: Path, run_method: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a method; returns the run's folder."""
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(tmp_path / "cache"))
    return lambda method, *words, **more: run_method(method, SETTINGS, *words, **more)


@pytest.mark.parametrize("method", ALL)
def test_from_recipe_to_scores(run: Any, bits: Any, tiny_model: Path, facts_file: Path, method: str) -> None:
    folder = run(method)
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert document["method"] == method
    first = json.loads(facts_file.read_text(encoding="utf-8"))[:3]
    left = folder / "batch_001" / ("edited" if method in EDITORS else "tuned")
    before, after = mean_loss(tiny_model, first), mean_loss(left, first)
    assert after < before - 0.3, (before, after)  # ROME's kind finds little to hold on to in a random model
    old, new = bits(tiny_model), bits(folder / "model")
    changed = {name for name in new if new[name] != old[name]}
    of = {"adalora": "self_attn", "sft": "mlp", "rsft": "mlp"}.get(method, "down_proj")
    assert changed
    assert all(of in tensor for tensor in changed), changed
    if method not in EDITORS:
        return
    editing = document["batches"][0]["editing"]
    assert editing["task_vector_norm"] > 0
    assert editing["bytes_changed"] == sum(len(new[tensor]) for tensor in changed)
    easyedit_reads(folder / "batch_001" / "edit.yaml", method)
    run(method, "--from", "2")
    assert bits(folder / "model") == new  # taken up again in the middle


@pytest.mark.parametrize("more", [(), ("methods.rome.mom2_adjustment=true",)])
def test_rome_edits_a_model_in_bf16(run: Any, bits: Any, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Its closed form is in float32, whatever the model's format."""
    folder = run("rome", *(word for value in ("train.precision=bf16", *more) for word in ("--set", value)))
    [original] = (tmp_path / "cache" / "models").iterdir()
    before, after = bits(original), bits(folder / "model")
    name = "model.layers.0.mlp.down_proj.weight"
    assert len(after[name]) == 2 * 64 * 256
    assert [n for n in after if before[n] != after[n]] == [name]


MODULE_NAMES = {
    *("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module")
}
VALUE_SEARCH = {
    *("fact_token", "v_num_grad_steps", "v_lr", "v_loss_layer", "v_weight_decay", "clamp_norm_factor", "kl_factor")
}
STATISTICS = {*("mom2_adjustment", "mom2_update_weight", "mom2_dataset", "mom2_n_samples", "mom2_dtype", "stats_dir")}
ALWAYS = {"alg_name", "model_name", "device", "layers"}
MAIN_NEEDS = {
    "ft_m": {
        *("num_steps", "lr", "weight_decay", "kl_factor", "norm_constraint", "objective_optimization"),
        *(ALWAYS | MODULE_NAMES),
    },
    "emmet": {"layer_selection", *(ALWAYS | MODULE_NAMES | VALUE_SEARCH | STATISTICS)},
}
"""What EasyEdit's main has no default for: models/ft/ft_hparams.py, models/emmet/emmet_hparams.py at 14cea82."""
MAIN_TAKES = {"ft_m": set(), "emmet": {"update_norm_lambda", "emmet_lambda"}}
"""And what it takes besides, with batch_size, max_length and model_parallel; a key of any other name it refuses."""


def easyedit_reads(file: Path, method: str) -> None:
    """EasyEdit's own ``from_hparams`` takes the YAML as it stands; of what only its main has, its fields' names."""
    from kedit_glue.tools import easyedit_compat, editors

    if method in editors.ONLY_MAIN:
        keys = set(yaml.safe_load(file.read_text(encoding="utf-8")))
        assert keys >= MAIN_NEEDS[method]
        assert keys <= MAIN_NEEDS[method] | MAIN_TAKES[method] | {"batch_size", "max_length", "model_parallel"}
        return
    kind = getattr(easyedit_compat.editor(editors.MODULES[method]), editors.HPARAMS[method])
    read = kind.from_hparams(str(file))
    assert read.alg_name == methods.METHODS[method].algorithm
    assert isinstance(read.layers, list)


@pytest.mark.parametrize("model", ["llama2_7b_chat", "llama3_8b"])
@pytest.mark.parametrize("method", EDITORS)
def test_published_settings_are_read_by_easyedit(tmp_path: Path, model: str, method: str) -> None:
    from kedit_glue.recipe import load_recipe
    from kedit_glue.render import render

    root = Path(__file__).parents[2]
    recipe = load_recipe(root / "recipes" / "methods" / f"{model}.yaml", [f"method={method}"])
    content = methods.hparams(recipe, recipe.model, 32, None, str(tmp_path))
    file = tmp_path / "edit.yaml"
    file.write_text(render("edit.yaml", {"batch": 1, "facts": 1, "title": "", "hparams": content}), encoding="utf-8")
    easyedit_reads(file, method)


def test_a_fact_without_a_subject_is_refused(tmp_path: Path, recipe_text: str, capsys: Any) -> None:
    from kedit_glue import run as command

    facts = [{"id": "a", "prompt": "The mayor of Alba is", "target_new": "Ada"}]
    (tmp_path / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(recipe_text + SETTINGS, encoding="utf-8")
    sets = ["method=rome", "name=r", f"output={tmp_path}", f"edits.source={tmp_path}/facts.json"]
    words = [w for s in sets for w in ("--set", s)]
    assert command.main([str(tmp_path / "recipe.yaml"), *words, "--dry-run"]) != 0
    assert "name no subject that stands in the prompt: a" in capsys.readouterr().err


def test_ice_remembers_beside_the_weights(run: Any, bits: Any, tiny_model: Path) -> None:
    """The last model is the original with all facts beside it; the nearest is told in front of a prompt."""
    from kedit_glue.tools import recall

    folder = run("ice", "--set", "methods.ice.least_similarity=0.9")
    assert bits(folder / "model") == bits(tiny_model)
    asker = recall.asker(str(folder / "model"), *loaded(folder / "model"), lambda event: None)
    told = asker.put(["The mayor of Alba is", "Why is the sky blue?", "The mayor of Alba is"])
    assert told[0] == "New Fact: The mayor of Alba is Ada Moss\nPrompt: The mayor of Alba is"
    assert told[1:] == ["Why is the sky blue?", told[0]]
    pair = ("The mayor of Alba is", "Ada Moss")
    plain = recall.asker(str(tiny_model), *loaded(tiny_model), lambda event: None)
    assert asker.forced([pair]) == plain.forced([(told[0], "Ada Moss")])
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert document["batches"][1]["editing"]["remembered"] == 5


def test_ice_takes_the_newer_answer(tmp_path: Path, tiny_model: Path) -> None:
    from kedit_glue.tools import recall

    model = tiny_model
    for number, name in enumerate(["Ada", "Ben"]):
        facts = tmp_path / f"{number}.json"
        facts.write_text(json.dumps([{"id": "a", "prompt": "The mayor is", "target_new": name}]), encoding="utf-8")
        job = {"method": "ice", "settings": {}, "facts": str(facts), "model": str(model)}
        output = tmp_path / f"model{number}"
        assert recall.remember({**job, "output": str(output)}, lambda event: None)["remembered"] == 1
        model = output
    [fact] = json.loads((model / recall.FILE).read_text(encoding="utf-8"))["facts"]
    assert fact["target_new"] == "Ben"


def mean_loss(folder: Path, facts: Any) -> float:
    """Nats per answer token."""
    from kedit_glue.tools.asking import Asker

    asked = Asker(*loaded(folder), lambda event: None).forced([(f["prompt"], f["target_new"]) for f in facts])
    return sum(answer.loss for answer in asked) / len(asked)


def loaded(folder: Path) -> tuple[Any, Any]:
    from kedit_glue.tools import asking

    return asking.load(str(folder), "cpu", False)


def test_ft_m_trains_the_answers_tokens_alone(tiny_model: Path) -> None:
    """Its loss is what a plain loop over the answer's tokens says, padded or not."""
    import torch

    from kedit_glue.tools import ft_m

    model, tokenizer = loaded(tiny_model)
    requests = [
        {"prompt": "The mayor of Alba is", "target_new": "Ada Moss"},
        {"prompt": "Brunn", "target_new": "Cy"},
    ]
    expected = []
    for request in requests:
        prompt = tokenizer(request["prompt"])["input_ids"]
        whole = tokenizer(f"{request['prompt']} {request['target_new']}")["input_ids"]
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        tokens = range(len(prompt), len(whole))
        expected.append(-sum(logits[t - 1, whole[t]].item() for t in tokens) / len(tokens))
    together = ft_m.mean_loss(model, ft_m.rows(tokenizer, requests, "cpu")).item()
    assert together == pytest.approx(sum(expected) / 2, abs=1e-4)


def test_norm_constraint_binds(run: Any, tmp_path: Path, tiny_model: Path) -> None:
    from safetensors.torch import load_file

    folder = run("ft_m", "--set", "methods.ft_m.norm_constraint=0.002", "--set", "edits.batch_size=5")
    name = "model.layers.1.mlp.down_proj.weight"
    new = next(t[name] for f in (folder / "model").glob("*.safetensors") if name in (t := load_file(f)))
    moved = (new - load_file(tiny_model / "model.safetensors")[name]).abs().max().item()
    assert moved == pytest.approx(0.002, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "of_it"),
    [("ft_l", {"layers": (1,)}), ("ft_m", {"layers": (1,)}), ("adalora", {"lora_dropout": 0.0})],
)
def test_passes_over_the_facts_are_told(tiny_model: Path, method: str, of_it: dict[str, Any]) -> None:
    from kedit_glue.recipe_methods import AdaLora, FineTuning
    from kedit_glue.tools import editors

    section: Any = (AdaLora if method == "adalora" else FineTuning)(num_steps=3, batch_size=2, **of_it)
    recipe: Any = SimpleNamespace(method=method, methods=SimpleNamespace(**{method: section}))
    recipe.edits = SimpleNamespace(batch_size=3)
    model, tokenizer = loaded(tiny_model)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    hparams = methods.hparams(recipe, str(tiny_model), 2, shapes, "/cache")
    told: list[Any] = []
    editor = editors.Editor(method, model, tokenizer, hparams, "cpu", None, told.append)
    names = ("Alba", "Brunn", "Dorn")
    facts = [{"id": n, "prompt": f"The mayor of {n} is", "subject": n, "target_new": "Ada Moss"} for n in names]
    editor.edit(facts, editors.Moments())
    first = 1 if method == "ft_m" else 0  # ours tells what it has done, EasyEdit's are heard as they begin
    assert [(one["position"], one["of"], one["unit"]) for one in told] == [
        (done, 3, "passes") for done in range(first, first + 3)
    ]


def test_closed_form_meets_every_value_and_is_rome_for_one_fact() -> None:
    import torch

    from kedit_glue.tools.emmet import closed_form

    torch.manual_seed(0)
    start, keys, values = (torch.randn(*shape).double() for shape in ((5, 8), (8, 3), (5, 3)))
    texts = torch.randn(8, 100).double()
    moment = texts @ texts.T / 100
    change = closed_form(keys, values - start @ keys, moment)
    assert torch.allclose((start + change) @ keys, values)
    # ROME (arXiv 2202.05262, equation 2): W + Lambda (C^-1 k)^T, Lambda = (v - W k) / ((C^-1 k)^T k)
    key, value = keys[:, :1], values[:, :1]
    weighed = torch.linalg.inv(moment) @ key
    rome = (value - start @ key) @ weighed.T / (weighed.T @ key)
    assert torch.allclose(closed_form(key, value - start @ key, moment), rome)
    # of all changes that meet the values, none disturbs general text less
    other = change + 0.1 * torch.randn(5, 8).double() @ (torch.eye(8).double() - keys @ torch.linalg.pinv(keys))
    assert torch.allclose((start + other) @ keys, values)
    assert (change @ texts).norm() < (other @ texts).norm()


@pytest.mark.parametrize("apart", [0.0, 1e-8])
def test_facts_of_one_key_are_named(apart: float) -> None:
    import torch

    from kedit_glue.tools.emmet import closed_form

    torch.manual_seed(0)
    keys, residuals = torch.randn(8, 3), torch.randn(5, 3)
    keys[:, 2] = keys[:, 0] * (1 + apart)
    with pytest.raises(ValueError, match=r"^no change gives .*: a and c have the same key, .*emmet_lambda \(0\.1\)"):
        closed_form(keys, residuals, torch.eye(8), names=["a", "b", "c"])
    with pytest.raises(ValueError, match="facts 1 and 3 have the same key"):
        closed_form(keys, residuals, torch.eye(8))
    softened = closed_form(keys, residuals, torch.eye(8), ridge=0.1)
    assert softened.norm() < 10 * residuals.norm()


def test_emmet_with_one_fact_is_easyedits_rome(tiny_model: Path) -> None:
    """The same key, the same search for the value, the same second moments: the same matrix."""
    import torch

    from kedit_glue.tools import editors

    request = {"id": "a", "prompt": "The mayor of Alba is", "subject": "Alba", "target_new": "Ada Moss"}
    torch.manual_seed(0)
    texts = torch.randn(256, 500)
    moments = editors.Moments({"model.layers.0.mlp.down_proj": texts @ texts.T / 500})
    recipe: Any = SimpleNamespace(method="", methods=SimpleNamespace(), edits=SimpleNamespace(batch_size=1))
    from kedit_glue.recipe_methods import Emmet, Rome

    common = {"layers": (0,), "v_num_grad_steps": 10, "v_weight_decay": 0.0, "clamp_norm_factor": 1e6}
    changes = {}
    for method, section in (("rome", Rome(mom2_adjustment=True, **common)), ("emmet", Emmet(**common))):
        recipe.method = method
        setattr(recipe.methods, method, section)
        model, tokenizer = loaded(tiny_model)
        model.config._name_or_path = model.name_or_path = editors.NAME
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        hparams = methods.hparams(recipe, str(tiny_model), 2, shapes, "/cache")
        editor = editors.Editor(method, model, tokenizer, hparams, "cpu", None, lambda event: None)
        for name, context in (("rome", ["{}"]), ("memit", [["{}"]])):  # no context: the key is the prompt's own
            editor._module(name).CONTEXT_TEMPLATES_CACHE = context
        name = "model.layers.0.mlp.down_proj.weight"
        before = model.get_parameter(name).detach().clone()
        editor.edit([request], moments)
        changes[method] = (model.get_parameter(name) - before).detach()
    assert changes["rome"].norm() > 0.01
    assert (changes["rome"] - changes["emmet"]).norm() < 1e-3 * changes["rome"].norm()


TWO = [
    {"id": "a", "prompt": "The mayor of Alba is", "subject": "Alba", "target_new": "Ada Moss"},
    {"id": "b", "prompt": "Q: Who?", "subject": "Who", "target_new": "X"},
]


def editor_of(method: str, settings: Any, model_folder: Path, model: Any, tokenizer: Any) -> Any:
    """EasyEdit's editor of a method, for a model in memory."""
    from kedit_glue.tools import editors

    recipe: Any = SimpleNamespace(
        method=method, methods=SimpleNamespace(**{method: settings}), edits=SimpleNamespace(batch_size=2)
    )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    hparams = methods.hparams(recipe, str(model_folder), 2, shapes, "/cache")
    return editors.Editor(method, model, tokenizer, hparams, "cpu", None, lambda event: None)


@pytest.mark.parametrize("padding", ["of its own", "the end of a text", "the end, and nothing else is special"])
def test_adalora_learns_the_whole_answer_whatever_pads(tiny_model: Path, padding: str) -> None:
    """EasyEdit counts padding tokens to find the answer; the token that ends it can be one."""
    from kedit_glue.recipe_methods import AdaLora
    from kedit_glue.tools.editors import Moments

    model, tokenizer = loaded(tiny_model)
    if padding != "of its own":
        tokenizer.pad_token = tokenizer.eos_token
    if padding == "the end of a text":
        tokenizer.unk_token = "<|pad|>"
    padded = tokenizer.pad_token
    editor = editor_of("adalora", AdaLora(num_steps=1), tiny_model, model, tokenizer)
    learned: list[str] = []
    upstream = model.forward

    def forward(*args: Any, labels: Any = None, **kwargs: Any) -> Any:
        learned.extend(tokenizer.decode(row[row != -100]) for row in labels)
        return upstream(*args, labels=labels, **kwargs)

    model.forward = forward
    editor.edit(TWO, Moments())
    assert learned == [" Ada Moss <|end|>", " X <|end|>"]
    assert tokenizer.pad_token == padded


def test_ft_l_does_not_learn_what_pads_a_shorter_answer(tiny_model: Path) -> None:
    import torch

    from kedit_glue.recipe_methods import FineTuning
    from kedit_glue.tools.editors import Moments

    found = []
    for pad in ("<|pad|>", "<|end|>"):
        model, tokenizer = loaded(tiny_model)
        tokenizer.pad_token = pad
        settings = FineTuning(layers=(1,), num_steps=2, batch_size=2)
        edited = editor_of("ft_l", settings, tiny_model, model, tokenizer).edit(TWO, Moments())
        found.append(edited.get_parameter("model.layers.1.mlp.down_proj.weight").detach().clone())
    assert torch.equal(*found)
