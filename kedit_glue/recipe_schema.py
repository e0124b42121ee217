"""Every key of a recipe: type, range, default, meaning. Checks, ``--explain`` and error messages come from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from kedit_glue.models import PACKAGED
from kedit_glue.recipe_keys import CORPUS, WORKING_FOLDERS, Section, key, number, switch, text, whole
from kedit_glue.recipe_methods import Method, Methods
from kedit_glue.recipe_score import Score
from kedit_glue.recipe_search import Search
from kedit_glue.recipe_values import check_layers, check_modules, check_parameters, check_pattern, no_repeats
from kedit_glue.recipe_verdict import Verdict

FactFormat = Literal[
    "auto", "knowedit", "counterfact", "zsre", "wikibigedit", "qaedit", "mquake", "rippleedits", "records", "csv"
]
Tracker = Literal[
    "tensorboard",
    "wandb",
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "kubeflow",
    "mlflow",
    "neptune",
    "swanlab",
    "trackio",
]
"""transformers' names (5.6.0, integrations/integration_utils.py:2640)."""
MAX_SEED = 2**32 - 1
"""NumPy, which every tool seeds, takes no larger one."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAMES = "letters, digits, '.', '_' and '-', at most 64 of them, a letter or digit first"
BARE = ("bare", "empty")
"""Values of ``train.template`` that mean the prompt alone, in our word and in LLaMA-Factory's."""
LAYERS = "'all', a range such as '4-8', 'first 4', 'last 4', or a list of layer numbers from 0 and such ranges"
PARAMETERS = "a mapping; each value a scalar, a list (a gradient over the layers) or a list of {filter, value}"
INSTEAD = {
    ("train", "parameters"): ("modules", "layers"),
    ("merge", "file"): ("method", "parameters", "dtype", "extra"),
}
"""A key that is null by default -> the keys of its section that it takes the place of."""


class Edits(Section):
    source: str = text(
        ..., "The file that holds the facts", f"a path that exists, {WORKING_FOLDERS}", "data/facts.json"
    )
    format: FactFormat = key(
        "auto",
        "The form the facts are in; auto looks at the file",
        "one of auto, knowedit, counterfact, zsre, wikibigedit, qaedit, mquake, rippleedits, records, csv",
    )
    skip: int = whole(0, "How many facts at the file's beginning are passed over", 0)
    limit: int | None = whole(None, "How many facts of the file are used, behind those that are skipped", 1)
    with_subject: bool = switch(
        False, "Whether facts without a subject in their prompt, which ROME, MEMIT and EMMET need, are passed over"
    )
    batch_size: int = whole(10, "How many facts are edited together, with one training and one merge", 1)
    mode: Literal["sequential", "independent"] = key(
        "sequential",
        "Whether each batch is edited into what the batch before left, or alone into the original and scored at once",
        "one of sequential, independent",
    )


class Protect(Section):
    """Which input directions a change is kept out of; on as soon as one of the first three is set."""

    directions: int = whole(
        0, "How many input directions, the ones general text uses most, each trained matrix keeps unchanged", 0, 100000
    )
    energy: float = number(
        0.0,
        "Instead of a number, the share of the inputs' energy on general text that the directions hold",
        "a number from 0 to below 1",
        ge=0,
        lt=1,
    )
    strength: float | None = number(
        None,
        "Soft protection, which shrinks the change by strength / (strength + eigenvalue / mean eigenvalue)",
        "a number above 0, or null to drop it altogether",
        gt=0,
    )
    corpus: str | None = text(
        None,
        "The general text that the directions come from (.jsonl, .json, .txt or a data set of the hub)",
        CORPUS,
    )
    texts: int | None = whole(None, "How many texts of it are used, from its beginning", 1)

    @property
    def on(self) -> bool:
        return bool(self.directions or self.energy or self.strength)


class RegMean(Section):
    """The regression mean of what a merge left and what it was merged with."""

    tokens: float = number(
        0.0,
        "As how many tokens general text counts against the taught facts' own in a regression mean (0: none is taken)",
        "a number, 0 or above",
        ge=0,
    )
    corpus: str | None = text(
        None,
        "The general text (.jsonl, .json, .txt or a data set of the hub)",
        CORPUS,
    )
    texts: int | None = whole(None, "How many texts of it are used, from its beginning", 1)

    @property
    def on(self) -> bool:
        return self.tokens > 0


class TrainProtect(Protect):
    neighbours: int = whole(
        0,
        "How many more directions are kept, those that the taught prompts themselves use when they are about others",
        0,
        100000,
    )

    @property
    def of_text(self) -> Protect:
        """Without the neighbours, which are each batch's own."""
        return Protect(**self.model_dump(exclude={"neighbours"}))


class Lora(Section):
    rank: int = whole(
        0, "The rank of LoRA adapters that are trained instead of the matrices themselves (0: none)", 0, 1024
    )
    alpha: int | None = whole(None, "LoRA's scale, divided by the rank", 1, null="twice the rank")


class Ray(Section):
    """What ``kedit_glue.on_ray`` asks a cluster for; a plain run does not read it."""

    cpus: int = whole(1, "How many CPU cores of a machine the run takes", 1, 1024)
    gpus: int = whole(0, "How many GPUs of a machine the run takes", 0, 1024)
    memory_gb: float | None = number(
        None, "How much memory of a machine the run takes, in GB", "a number above 0, or null to leave it open", gt=0
    )
    retries: int = whole(3, "How many times the run is taken up again after its worker or machine was lost", 0, 100)


class Launch(Section):
    processes: int = whole(
        1, "How many processes of a machine share each mini-batch in training (torchrun; one a GPU)", 1, 1024
    )
    nodes: int = whole(
        1, "On how many machines, each told NODE_RANK, MASTER_ADDR and MASTER_PORT, training runs together", 1, 1024
    )
    deepspeed: str | None = text(
        None,
        "A DeepSpeed configuration (ZeRO 0 to 2) for training by several processes",
        f"a JSON file that exists, {WORKING_FOLDERS}, or null for torch's own DistributedDataParallel",
    )
    ray: Ray = Field(default_factory=Ray, description="What the run asks a Ray cluster for (kedit_glue.on_ray).")

    @property
    def everyone(self) -> int:
        """Processes on all machines together."""
        return self.processes * self.nodes


class Train(Section):
    from_: Literal["previous", "base"] = key(
        "previous",
        "What each batch is trained from, the model that the batch before left or the unedited model",
        "one of previous, base",
        alias="from",
    )
    modules: Annotated[tuple[str, ...], BeforeValidator(check_modules)] = key(
        ("mlp",),
        "Which feed-forward modules or matrices are trained, such as mlp, down_proj, gate_proj or c_fc",
        "one name or a list of names of letters, digits and '_'",
    )
    layers: Annotated[str | tuple[int | str, ...], BeforeValidator(check_layers)] = key(
        "all", "Which layers are trained", LAYERS
    )
    parameters: Annotated[str | None, BeforeValidator(check_pattern)] = text(
        None,
        "Instead of modules and layers, what is trained by the parameters' own names",
        "a regular expression that is searched for in each name, or null",
    )
    lora: Lora = Field(default_factory=Lora, description="Adapters instead of the matrices, for little memory.")
    order: Literal["breadth", "depth"] = key(
        "breadth",
        "Whether a mini-batch gets one optimizer step an epoch, or inner_steps in a row before the next (the paper's)",
        "one of breadth, depth",
    )
    epochs: int = whole(20, "How many times at most training goes over an edit batch, in epochs", 1, 1000)
    mini_batch: int = whole(
        1, "How many texts one optimizer step takes, a fact and each of its rephrasings and contexts being one", 1, 1024
    )
    inner_steps: int | None = whole(
        None,
        "At most so many optimizer steps in a row on one sample or mini-batch",
        1,
        1000,
        null="1 in breadth, 10 in depth",
    )
    loss_threshold: float = number(
        0.05,
        "A fact whose loss, in nats per target token, is under this gets no update (0: none is left alone)",
        "a number, 0 or more",
        ge=0,
    )
    learning_rate: float = number(
        1e-4, "The optimizer's step size, without unit", "a number above 0 up to 1", gt=0, le=1
    )
    weight_decay: float = number(
        0.0,
        "AdamW's weight decay per step, relative to the learning rate",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    max_grad_norm: float = number(
        1.0,
        "Gradients with a larger Euclidean norm are scaled down to it (0: never)",
        "a number, 0 or more",
        ge=0,
    )
    precision: Literal["fp32", "bf16"] = key("fp32", "The number format of training", "one of fp32, bf16")
    gradient_checkpointing: bool = switch(
        False, "Whether activations are computed a second time instead of kept, a quarter slower in less memory"
    )
    template: str = text(
        "bare",
        "How a fact is put, the prompt alone or as a question in a chat",
        "bare, chat (the model's own chat template), or the name of one of LLaMA-Factory's",
    )
    cutoff_len: int = whole(256, "The longest prompt with its target, in tokens", 16, 131072)
    rephrasings: int = whole(
        0, "How many of a fact's rephrasings are trained on as well; scoring asks only the others", 0, 1000
    )
    contexts: int = whole(
        0, "Behind how many short unrelated sentences a fact's prompt is trained on as well, one at a time", 0, 1000
    )
    rehearse: int = whole(
        0, "How many facts of earlier batches, drawn anew for each, are trained on again beside its own", 0, 100000
    )
    tokens: Literal["all", "subject"] = key(
        "all",
        "At which tokens of a text the trained matrices learn, all or those that name the fact's subject",
        "one of all, subject",
    )
    shuffle: bool = switch(True, "Whether each epoch takes the facts in a new order")
    protect: TrainProtect = Field(
        default_factory=TrainProtect, description="What training leaves as it is, to keep what the model knows."
    )
    report_to: Annotated[tuple[Tracker, ...], BeforeValidator(no_repeats)] = key(
        (),
        "Trackers that training reports to, one run over all batches",
        "a list of tensorboard, wandb or others that transformers knows",
    )
    extra: dict[str, Any] = key(
        {},
        "LLaMA-Factory's own further keys, passed on verbatim, e.g. lr_scheduler_type, optim, use_muon",
        "a mapping of keys that no key here sets",
    )

    @property
    def steps_in_a_row(self) -> int:
        """``inner_steps``, or the order's own where it is left out."""
        return self.inner_steps or (10 if self.order == "depth" else 1)


class Merge(Section):
    method: str = text("task_arithmetic", "mergekit's merge method", "the name of a method of mergekit")
    onto: Literal["base", "previous"] = key(
        "base",
        "What each tuned model is merged with, the unedited model or the previous batch's result",
        "one of base, previous",
    )
    when: Literal["each", "end"] = key(
        "each", "Whether a merge follows each batch or only the last", "one of each, end"
    )
    parameters: Annotated[dict[str, Any], BeforeValidator(check_parameters)] = key(
        {"weight": 0.7}, "mergekit's parameters of the method, by its names", PARAMETERS
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = key(
        None,
        "The number format of the merged model",
        "one of float32, bfloat16, float16, or null for the model's own",
    )
    protect: Protect = Field(
        default_factory=Protect, description="As train.protect, but applied to the change that the merge leaves."
    )
    regmean: RegMean = Field(
        default_factory=RegMean,
        description="RegMean: each matrix gives the taught facts what the merge gives them, and general text what it "
        "had before, as nearly as both can be.",
    )
    search: Search = Field(
        default_factory=Search, description="Searching the merge instead of guessing it (docs/search.md)."
    )
    file: str | None = text(
        None,
        "A merge YAML of your own in place of method and parameters, its models named original, previous and tuned",
        f"a file that exists, {WORKING_FOLDERS}, or null",
    )
    extra: dict[str, Any] = key(
        {}, "mergekit's own further keys, passed on verbatim", "a mapping of keys that no key here sets"
    )


class Recipe(Section):
    """One run; ``load_recipe`` makes it, with paths made absolute."""

    name: str = text(
        ...,
        "The run's name, also of its folder",
        NAMES,
        "my-run",
        pattern=f"^{NAME}$",
    )
    model: str = text(
        ...,
        "The model to edit",
        f"a packaged model ({', '.join(PACKAGED)}), an existing folder, or a hub id owner/name",
        next(iter(PACKAGED)),
    )
    trust_remote_code: bool = switch(False, "Whether Python code that comes with the model may run")
    edits: Edits = Field(description="The facts to edit.")
    method: Method = key(
        "rsft_merge",
        "How facts are edited, by R-SFT and merging or by a rival (docs/methods.md)",
        f"one of {', '.join(get_args(Method))}",
    )
    train: Train = Field(default_factory=Train, description="How a batch is trained (LLaMA-Factory with R-SFT).")
    merge: Merge = Field(default_factory=Merge, description="How the tuned model is merged (mergekit).")
    methods: Methods = Field(default_factory=Methods, description="The other methods' settings, a section each.")
    score: Score = Field(default_factory=Score, description="What is measured, and when.")
    verdict: Verdict = Field(
        default_factory=Verdict, description="What the edited model has to reach before the report says ship."
    )
    keep: Literal["deltas", "all", "last"] = key(
        "deltas",
        "What stays of the batches before the last, their changed tensors, every model whole, or nothing",
        "one of deltas, all, last",
    )
    seed: int = whole(0, "The random seed of training, merging and scoring", 0, MAX_SEED)
    output: str = text("runs", "The folder that run folders are made in", "a path, relative to the current folder")
    templates: str | None = text(
        None,
        "A folder with templates of your own for the tools' YAML",
        f"a folder that exists, {WORKING_FOLDERS}, or null",
    )
    device: Literal["auto", "cpu", "cuda"] = key("auto", "What computes", "one of auto, cpu, cuda")
    threads: int | None = whole(None, "How many CPU threads the tools use", 1, null="their own choice")
    runner: Literal["auto", "warm", "spawn", "command"] = key(
        "auto",
        "How tools are run, in a server that stays warm, in a new process each, or by their own command",
        "one of auto, warm, spawn, command",
    )
    launch: Launch = Field(default_factory=Launch, description="More than one process, machine or run.")
