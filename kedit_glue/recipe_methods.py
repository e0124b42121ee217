"""``method:`` and each rival's own section of a recipe; its keys are EasyEdit's hparams by their names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kedit_glue.recipe_keys import CORPUS, WORKING_FOLDERS, Section, Texts, key, number, switch, text, whole
from kedit_glue.recipe_values import check_layers

Method = Literal[
    "rsft_merge", "rsft", "sft", "locft_bf", "ft_l", "ft_m", "adalora", "rome", "memit", "emmet", "mend", "serac", "ice"
]
LAYERS = "'all', a range such as '4-8', 'first 4', 'last 4', or a list of layer numbers from 0 and such ranges"
FURTHER_TRAINING = "EasyEdit's own further keys, passed on verbatim, such as dist_heads or n_hidden"
FURTHER = "What else the editor reads, passed on verbatim: ROME's context_template_length_params, a checkout's own keys"


def layers(default: Any) -> Any:
    return key(default, "Which layers are edited", LAYERS)


Layers = Annotated[str | tuple[int | str, ...], BeforeValidator(check_layers)]


class LocFtBf(Section):
    """LocFT-BF's own settings, its authors' for Llama 3 (ICT-STAR/LocFT, hparams/llama3-8b.yaml); the rest of
    training is ``train``'s.
    """

    layers: Layers = layers((22,))
    modules: Texts = key(("down_proj",), "Which matrices are trained", "a list of names of letters, digits and '_'")
    epochs: int = whole(25, "How many times at most training goes over an edit batch, in epochs", 1, 1000)
    mini_batch: int = whole(
        100, "How many facts one optimizer step takes, or the edit batch where that is smaller", 1, 100000
    )
    learning_rate: float = number(5e-4, "The optimizer's step size", "a number above 0 up to 1", gt=0, le=1)
    loss_threshold: float = number(
        0.01, "A fact whose loss, in nats per target token, is under this gets no update", "a number, 0 or more", ge=0
    )


class FineTuning(Section):
    """FT-L and FT-M: a constrained fine-tuning of one matrix (``easyeditor/models/ft``)."""

    layers: Layers = layers((21,))
    num_steps: int = whole(25, "How many optimizer steps at most", 1, 10000)
    lr: float = number(5e-4, "Adam's step size", "a number above 0 up to 1", gt=0, le=1)
    weight_decay: float = number(0.0, "Adam's weight decay", "a number, 0 or more", ge=0)
    norm_constraint: float | None = number(
        None, "No weight moves further than this", "a number above 0, or null for no constraint", gt=0
    )
    batch_size: int = whole(1, "How many facts one optimizer step takes", 1, 1024)
    extra: dict[str, Any] = key({}, FURTHER, "a mapping")


class AdaLora(Section):
    """AdaLoRA adapters, merged into the model after each batch (``easyeditor/models/lora``)."""

    layers: Layers = layers("all")
    target_modules: Texts = key(("q_proj", "v_proj"), "Which modules get adapters", "a list of module names")
    num_steps: int = whole(70, "How many passes over the batch", 1, 10000)
    batch_size: int = whole(1, "How many facts one optimizer step takes", 1, 1024)
    lr: float = number(5e-3, "Adam's step size", "a number above 0 up to 1", gt=0, le=1)
    weight_decay: float = number(0.0, "Adam's weight decay", "a number, 0 or more", ge=0)
    rank: int = whole(8, "The adapters' rank", 1, 1024)
    lora_alpha: float = number(32.0, "LoRA's scale, divided by the rank", "a number above 0", gt=0)
    lora_dropout: float = number(0.1, "Dropout in front of the adapters", "a number from 0 to below 1", ge=0, lt=1)
    extra: dict[str, Any] = key({}, FURTHER, "a mapping")


class LocateAndEdit(Section):
    """What ROME, MEMIT and EMMET have in common: a value is searched by gradient, then written in closed form."""

    fact_token: Literal["subject_first", "subject_last", "subject_first_after_last"] = key(
        "subject_last",
        "At which token of the prompt the fact is looked up",
        "one of subject_first, subject_last, subject_first_after_last",
    )
    v_num_grad_steps: int = whole(25, "How many gradient steps search a fact's value", 1, 1000)
    v_lr: float = number(0.5, "Adam's step size in that search", "a number above 0", gt=0)
    v_loss_layer: int | None = whole(
        None, "Behind which layer the loss is read", 0, null="the model's last, where the head reads"
    )
    v_weight_decay: float = number(1e-3, "Weight decay of the value's change", "a number, 0 or more", ge=0)
    clamp_norm_factor: float = number(
        4.0, "The value's change is at most so many times the value's norm", "a number above 0", gt=0
    )
    kl_factor: float = number(0.0625, "Weight of the loss that keeps what the subject is", "a number, 0 or more", ge=0)
    moments: str | None = text(
        None,
        "The general text whose second moments weigh directions (.jsonl, .json, .txt or a data set of the hub)",
        CORPUS,
    )
    moments_texts: int | None = whole(None, "How many texts of it are used, from its beginning", 1)
    moments_ridge: float = number(
        0.0,
        "Added to each second moment matrix's diagonal, in shares of its mean eigenvalue: a small text leaves it near "
        "singular",
        "a number, 0 or more",
        ge=0,
    )
    extra: dict[str, Any] = key({}, FURTHER, "a mapping")


class Rome(LocateAndEdit):
    layers: Layers = layers((5,))
    mom2_adjustment: bool = switch(False, "Whether the key is weighed by general text's second moments")


class Memit(LocateAndEdit):
    layers: Layers = layers("4-8")
    mom2_update_weight: float = number(
        15000.0, "How much general text's second moments weigh against the edits", "a number above 0", gt=0
    )


class Emmet(LocateAndEdit):
    layers: Layers = layers((5,))
    mom2_update_weight: float = number(
        1.0, "What general text's second moments are multiplied with", "a number above 0", gt=0
    )
    update_norm_lambda: float = number(0.0, "Added to the diagonal of their product", "a number, 0 or more", ge=0)
    emmet_lambda: float = number(
        0.0,
        "Added to the diagonal of the facts' own matrix (0: the facts' values are met exactly)",
        "a number, 0 or more",
        ge=0,
    )


class Learned(Section):
    """What MEND and SERAC have in common: EasyEdit's trainer, which trains an editor before the first edit."""

    train_facts: str | None = text(
        None,
        "The facts that the editor is trained on, none of them an edit; without them the method cannot be chosen",
        f"a file that exists, {WORKING_FOLDERS}, or null while another method is chosen",
    )
    train_skip: int = whole(0, "How many facts at the beginning of that file are passed over", 0)
    train_limit: int | None = whole(None, "How many facts behind those are used", 4)
    train_rephrased: bool = switch(
        False,
        "Whether training asks the edited model a rephrasing (the papers' way), not the edited prompt (EasyEdit's)",
    )
    max_iters: int = whole(100000, "How many training steps", 1)
    batch_size: int = whole(1, "How many facts a training step takes", 1, 1024)
    accumulate_bs: int = whole(10, "After how many training steps the optimizer takes one", 1)
    lr: float = number(1e-6, "Adam's step size", "a number above 0 up to 1", gt=0, le=1)
    grad_clip: float = number(
        100.0, "Gradients with a larger Euclidean norm are scaled down to it", "a number above 0", gt=0
    )
    cedit: float = number(0.1, "Weight of the loss that wants the new answer", "a number, 0 or more", ge=0)
    cloc: float = number(1.0, "Weight of the loss that keeps other answers", "a number, 0 or more", ge=0)
    val_interval: int = whole(1000, "After how many training steps each the editor is validated", 1)
    val_steps: int = whole(500, "With how many facts at most it is validated", 1)
    early_stop_key: Literal["edit/acc_val", "loss/total_edit_val"] = key(
        "edit/acc_val",
        "By which value of the validations the best editor is kept",
        "one of edit/acc_val, loss/total_edit_val",
    )
    extra: dict[str, Any] = key({}, FURTHER_TRAINING, "a mapping")


class Mend(Learned):
    """MEND: small networks turn a fact's gradient into a change of the weights (``easyeditor/models/mend``)."""

    layers: Layers = layers("last 3")
    modules: Texts = key(
        ("mlp",), "Which feed-forward modules or matrices are edited", "a list of names of letters, digits and '_'"
    )
    batch_size: int = whole(1, "How many facts one training step and one edit take", 1, 1024)
    edit_lr: float = number(
        1e-4, "What the learned step size of each matrix begins with", "a number above 0 up to 1", gt=0, le=1
    )
    rank: int = whole(1920, "The networks' rank", 1)
    lr_scale: float = number(1.0, "What an edit's change is multiplied with", "a number above 0", gt=0)


class Serac(Learned):
    """SERAC: a classifier sends prompts near to a remembered fact to a second model (``easyeditor/models/serac``)."""

    batch_size: int = whole(10, "How many facts a training step takes", 1, 1024)
    lr: float = number(1e-5, "Adam's step size", "a number above 0 up to 1", gt=0, le=1)
    small_name: str | None = text(
        None,
        "The counterfactual model, which answers behind a remembered fact; it needs the edited model's vocabulary",
        f"a packaged model, a folder that exists, {WORKING_FOLDERS}, or null for a copy of the edited model",
    )
    cls_name: str | None = text(
        None,
        "The sentence-transformers model that the scope classifier begins with",
        f"a folder that exists, {WORKING_FOLDERS}, or null for the MiniLM that is installed",
    )
    cos: bool = switch(False, "Whether distance is 1 - cosine instead of Euclidean")
    square: bool = switch(True, "Whether the Euclidean distance is squared")
    bound_embeds: bool = switch(False, "Whether embeddings go through tanh first")


class Ice(Section):
    """In-context editing: facts are remembered, and put in front of prompts that are near to theirs."""

    k: int = whole(1, "How many remembered facts at most are put in front of a prompt", 1, 1000)
    least_similarity: float = number(
        0.6,
        "How near a remembered fact's prompt has to be to the prompt that is asked, as a cosine",
        "a number from -1 to 1",
        ge=-1,
        le=1,
    )
    encoder: str | None = text(
        None,
        "The sentence-transformers model that says how near two texts are",
        f"a folder that exists, {WORKING_FOLDERS}, or null for the MiniLM that is installed",
    )


class Methods(Section):
    """The sections that a recipe may have beside ``method``; those of other methods stay there unused."""

    locft_bf: LocFtBf = Field(default_factory=LocFtBf, description="LocFT-BF's settings.")
    ft_l: FineTuning = Field(default_factory=FineTuning, description="FT-L's settings, EasyEdit's names.")
    ft_m: FineTuning = Field(default_factory=FineTuning, description="FT-M's settings, EasyEdit's names.")
    adalora: AdaLora = Field(default_factory=AdaLora, description="AdaLoRA's settings, EasyEdit's names.")
    rome: Rome = Field(default_factory=Rome, description="ROME's settings, EasyEdit's names.")
    memit: Memit = Field(default_factory=Memit, description="MEMIT's settings, EasyEdit's names.")
    emmet: Emmet = Field(default_factory=Emmet, description="EMMET's settings, EasyEdit's names.")
    mend: Mend = Field(default_factory=Mend, description="MEND's settings, EasyEdit's names.")
    serac: Serac = Field(default_factory=Serac, description="SERAC's settings, EasyEdit's names.")
    ice: Ice = Field(default_factory=Ice, description="In-context editing's settings.")
    easyedit: str | None = text(
        None,
        "A git checkout of EasyEdit for FT-M and EMMET, which its package lacks",
        f"a folder that exists, {WORKING_FOLDERS}, or null for our own code",
    )
