"""Robust supervised fine-tuning (R-SFT) as a callback for LLaMA-Factory's trainer.

'Model Merging for Knowledge Editing', arXiv 2506.12384, section 3: three loops - epochs, over
samples, over optimizer steps on one sample - in which a sample whose loss is under a threshold is
left alone. transformers' Trainer gives the two outer loops; this callback gives the rest:

* a forward hook replaces the batch loss by the mean, over the samples that are not learned yet, of
  each sample's own loss (mean negative log-likelihood per target token in nats, the end-of-sequence
  token included);
* where nothing in a mini-batch is left to learn the gradients are dropped, not zeroed, before the
  optimizer step: with ``grad is None`` AdamW neither decays a weight nor moves a moment;
* after the trainer's step up to ``inner_steps - 1`` more are taken on the same mini-batch;
* an epoch without a single optimizer step ends the training.

With ``mini_batch: 1`` and ``inner_steps > 1`` that is the paper's depth-first order; with
``inner_steps: 1`` it is breadth-first (LocFT-BF, arXiv 2509.22072).
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

IGNORED = -100
Emit = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """What LLaMA-Factory's YAML has no key for; read from ``rsft.yaml``."""

    inner_steps: int
    """At most so many optimizer steps in a row on one mini-batch (1 or more)."""
    loss_threshold: float
    """Nats per target token; a sample under it gets no update (0: none is ever left alone)."""
    trainable: str
    """Regular expression: parameters whose name it finds are trained, all others are frozen."""
    protect: str | None = None
    """File of input directions (``tools/protect.py``) that each matrix's change is kept out of."""


@dataclass
class Trace:
    """What training did for one sample: a fact's prompt, or a rephrasing that is trained on."""

    id: str
    prompt: str
    target_new: str
    steps: int = 0
    """Optimizer steps that this sample's loss took part in."""
    loss_before: float = float("nan")
    """Nats per target token, end-of-sequence included, when training first met the sample."""
    loss_after: float = float("nan")
    """The same after the batch's last step."""
    learned: bool = False
    """``loss_after`` is under the threshold."""


def sample_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood per target token of each sample.

    ``logits`` [batch, tokens, vocabulary], ``labels`` [batch, tokens] with -100 where no loss is
    taken; returns float32 [batch] in nats, 0 for a row without targets.
    """
    shifted = labels[:, 1:]
    wanted = shifted != IGNORED
    token_loss = torch.nn.functional.cross_entropy(logits[:, :-1][wanted].float(), shifted[wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    total = torch.zeros(labels.shape[0], device=labels.device).index_add_(0, rows, token_loss)
    return total / wanted.sum(dim=1).clamp(min=1)


def freeze_all_but(model: torch.nn.Module, trainable: str) -> tuple[int, list[str]]:
    """Narrow ``requires_grad`` to the parameters the expression finds; returns their count and names."""
    pattern = re.compile(trainable)
    names = []
    count = 0
    for name, parameter in model.named_parameters():
        if not pattern.search(name):
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            names.append(name)
            count += parameter.numel()
    if not names:
        raise ValueError(
            f"no parameter that LLaMA-Factory left trainable matches {trainable!r}: "
            "check train.modules and train.layers against the model's parameter names"
        )
    return count, names


class Protection:
    """Keeps each trained matrix's change D = W - W0 out of given input directions V: D V = 0.

    W0 is the matrix as the batch's training found it. As every batch keeps D V = 0, so does their sum,
    and so does a merge that scales D.
    """

    def __init__(self, model: torch.nn.Module, file: str):
        from safetensors.torch import load_file

        directions = load_file(file)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2}
        if missing := sorted(trained.keys() - directions.keys()):
            raise ValueError(f"{file} holds no directions for {', '.join(missing[:3])}: it was made for other layers")
        self.matrices = [(p, p.detach().clone(), directions[name].to(p)) for name, p in trained.items()]

    def apply(self) -> None:
        """After an optimizer step: take the part of the change that lies in the directions back."""
        with torch.no_grad():
            for weight, start, directions in self.matrices:
                change = weight - start
                weight.sub_((change @ directions) @ directions.T)


class RSFT(TrainerCallback):
    """See the module's docstring. One instance trains one edit batch."""

    def __init__(self, settings: Settings, samples: Sequence[Mapping[str, str]], trace_file: Path, emit: Emit):
        self.settings = settings
        self.traces = [Trace(s["id"], s["prompt"], s["target_new"]) for s in samples]
        self.trace_file = trace_file
        self.emit = emit
        self.row_of: dict[tuple[int, ...], int] = {}
        self.rows: list[int] = []
        self.asked_at = [-1] * len(self.traces)
        self.inputs: dict[str, Any] = {}
        self.losses = torch.zeros(0)
        self.active = torch.zeros(0, dtype=torch.bool)
        self.hooked = False
        self.protection: Protection | None = None
        self.steps = 0
        self.steps_before_epoch = 0
        self.step_seconds = 0.0
        self.epochs = 0

    # -- set-up ---------------------------------------------------------------------------------

    def on_init_end(self, args, state, control, model=None, **kwargs):  # type: ignore[no-untyped-def]
        """Before the optimizer is made: freeze what LLaMA-Factory's own options could not name."""
        count, names = freeze_all_but(model, self.settings.trainable)
        total = sum(p.numel() for p in model.parameters())
        self.emit({"event": "trainable", "parameters": count, "of": total, "tensors": len(names), "first": names[0]})

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):  # type: ignore[no-untyped-def]
        if args.gradient_accumulation_steps != 1:
            raise ValueError("R-SFT stops sample by sample: gradient_accumulation_steps must be 1")
        if args.world_size != 1:
            raise ValueError("R-SFT trains in one process; this run has " + str(args.world_size))
        dataset = train_dataloader.dataset
        if len(dataset) != len(self.traces):
            raise ValueError(f"LLaMA-Factory kept {len(dataset)} of {len(self.traces)} samples (cutoff_len too small?)")
        for row in range(len(dataset)):
            ids, labels = dataset[row]["input_ids"], dataset[row]["labels"]
            if all(label == IGNORED for label in labels):
                raise ValueError(f"fact {self.traces[row].id}: no target token is left within cutoff_len")
            if (other := self.row_of.setdefault(tuple(ids), row)) != row:
                raise ValueError(f"facts {self.traces[other].id} and {self.traces[row].id} train on the same text")
        if self.settings.protect:
            self.protection = Protection(model, self.settings.protect)
        model.register_forward_hook(self._replace_loss, with_kwargs=True)
        self.hooked = True
        self.started = time.monotonic()

    def _losses_of_all(self, args: Any, model: Any, loader: Any) -> list[float]:
        """Loss of every fact of the batch, no gradients, in mini-batches."""
        hooked, self.hooked = self.hooked, False
        was_training = model.training
        model.eval()
        found: list[float] = []
        size = max(8, args.per_device_train_batch_size)
        with torch.no_grad():
            for start in range(0, len(loader.dataset), size):
                rows = [loader.dataset[i] for i in range(start, min(start + size, len(loader.dataset)))]
                batch = {k: v.to(args.device) for k, v in loader.collate_fn(rows).items() if torch.is_tensor(v)}
                labels = batch.pop("labels")
                found += sample_losses(model(**batch).logits, labels).tolist()
        model.train(was_training)
        self.hooked = hooked
        return found

    # -- the loops ------------------------------------------------------------------------------

    def _replace_loss(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook: the loss becomes the mean over the samples that are not learned yet."""
        if not self.hooked or kwargs.get("labels") is None:
            return output
        self.inputs = kwargs
        losses = sample_losses(output.logits, kwargs["labels"])
        self.losses = losses.detach()
        self.rows = self._rows()
        for row, loss in zip(self.rows, self.losses.tolist(), strict=True):
            if math.isnan(self.traces[row].loss_before):
                self.traces[row].loss_before = loss
            self.traces[row].loss_after = loss
            self.asked_at[row] = self.steps
        self.active = self.losses >= self.settings.loss_threshold
        share = self.active.float() / self.active.sum().clamp(min=1)
        output.loss = (losses * share).sum()
        return output

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        if self.active.any():
            self._count_step()
        else:
            optimizer.zero_grad(set_to_none=True)

    def on_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self.protection is not None and self.active.any():
            self.protection.apply()

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        """The inner loop: the trainer took one step on this mini-batch; take the others."""
        if self.active.any():
            for _ in range(self.settings.inner_steps - 1):
                output = model(**self.inputs)
                if not self.active.any():
                    break
                output.loss.backward()
                if args.max_grad_norm and args.max_grad_norm > 0:
                    torch.nn.utils.clip_grad_norm_(
                        [p for p in model.parameters() if p.grad is not None], args.max_grad_norm
                    )
                self._count_step()
                optimizer.step()
                if self.protection is not None:
                    self.protection.apply()
                optimizer.zero_grad(set_to_none=True)
        self.emit(
            {
                "event": "step",
                "epoch": self.epochs + 1,
                "epochs": int(args.num_train_epochs),
                "loss": round(float(self.losses.mean()), 4),
                "steps": self.steps,
                "position": state.global_step,
                "of": state.max_steps,
            }
        )

    def _rows(self) -> list[int]:
        """Which samples of the data set the current mini-batch holds."""
        ids, mask = self.inputs["input_ids"].tolist(), self.inputs["attention_mask"].tolist()
        return [
            self.row_of[tuple(i for i, kept in zip(row, kept_row, strict=True) if kept)]
            for row, kept_row in zip(ids, mask, strict=True)
        ]

    def _count_step(self) -> None:
        self.steps += 1
        for row, active in zip(self.rows, self.active.tolist(), strict=True):
            self.traces[row].steps += active

    def on_epoch_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.epochs += 1
        if self.steps == self.steps_before_epoch:
            control.should_training_stop = True
        self.steps_before_epoch = self.steps

    # -- the end --------------------------------------------------------------------------------

    def on_train_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):  # type: ignore[no-untyped-def]
        self.hooked = False
        self.step_seconds = time.monotonic() - self.started
        evaluating = time.monotonic()
        if any(at != self.steps for at in self.asked_at):  # a step was taken since a sample was last asked
            for trace, loss in zip(self.traces, self._losses_of_all(args, model, train_dataloader), strict=True):
                trace.loss_after = loss
        for trace in self.traces:
            trace.learned = trace.loss_after < self.settings.loss_threshold
        self.trace_file.write_text(
            "".join(json.dumps(asdict(t), ensure_ascii=False) + "\n" for t in self.traces), encoding="utf-8"
        )
        self.emit(
            {
                "event": "trained",
                "epochs": self.epochs,
                "steps": self.steps,
                "seconds": round(self.step_seconds, 2),
                "evaluation_seconds": round(time.monotonic() - evaluating, 3),
                "learned": len(self.facts()) - len(self.not_learned()),
                "of": len(self.facts()),
            }
        )

    def facts(self) -> list[str]:
        """Ids of the batch's facts, in order."""
        return list(dict.fromkeys(t.id for t in self.traces))

    def not_learned(self) -> list[str]:
        """Ids of the facts of which some sample's loss is not under the threshold."""
        return list(dict.fromkeys(t.id for t in self.traces if not t.learned))
