"""Robust supervised fine-tuning (R-SFT) as a callback for LLaMA-Factory's trainer.

'Model Merging for Knowledge Editing', arXiv 2506.12384, section 3: three loops - epochs, over
samples, over optimizer steps on one sample - in which a sample whose loss is under a threshold is
left alone. transformers' Trainer gives the two outer loops; this callback gives the rest:

* a forward hook replaces the batch loss by the mean, over the samples that are not learned yet, of
  each sample's own loss (mean negative log-likelihood per target token in nats, the end-of-sequence
  token included); what was learned when it was last asked is asked without a graph, which takes a third of the time;
* where nothing in a mini-batch is left to learn the gradients are dropped, not zeroed, before the
  optimizer step: with ``grad is None`` AdamW neither decays a weight nor moves a moment;
* after the trainer's step up to ``inner_steps - 1`` more are taken on the same mini-batch;
* facts of earlier batches (``train.rehearse``, ours) are samples like others, but thought to be known: those that are
  are asked in every third epoch and before training ends;
* an epoch without a single optimizer step ends the training.

With ``inner_steps > 1`` that is depth first, the paper's order (its mini-batch is one sample); with
``inner_steps: 1`` it is breadth first (LocFT-BF, arXiv 2509.22072), where a sample that is learned
drops out until an epoch finds it forgotten.

Several processes (torchrun) share each mini-batch. All of them know every sample's loss, so they agree
on who is learned and when to stop, and their averaged gradients are those of one process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from kedit_glue import zero
from kedit_glue.deepspeed_file import file_problem
from kedit_glue.freezing import freeze_all_but
from kedit_glue.ranks import active_wrapper, gathered, process_number, processes
from kedit_glue.sample_losses import IGNORED, sample_losses, some_of, texts_of
from kedit_glue.tools import Emit
from kedit_glue.training_trace import Traces

TOGETHER = 8
"""Samples that a CPU is asked about at once."""
EVERY = 3
"""Earlier facts that are still known are asked in the first epoch, every so many, and before training ends."""


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
    neighbours: int = 0
    """So many more of them, those of the facts' prompts about other subjects (``neighbours.py``)."""
    tokens: str = "all"
    """At which tokens the matrices learn: ``all``, or those of the ``subject`` alone (``subject_tokens.py``)."""

    def __post_init__(self) -> None:
        if self.tokens not in ("all", "subject"):
            raise ValueError(f"rsft.yaml: tokens is {self.tokens!r}; allowed: all, subject")


def refuse(args: Any) -> None:
    """ValueError, before the first step, for ways to train that the loops cannot work with."""
    if args.gradient_accumulation_steps != 1:
        raise ValueError("R-SFT stops sample by sample: gradient_accumulation_steps must be 1")
    if getattr(args, "fsdp", None):
        raise ValueError("R-SFT cannot train with fsdp, which shards the matrices; use launch.processes")
    if args.deepspeed and (found := file_problem(Path(args.deepspeed))):
        raise ValueError(f"R-SFT cannot train with {args.deepspeed}: {found}")


class RSFT(TrainerCallback):
    """See the module's docstring. One instance trains one edit batch."""

    def __init__(self, settings: Settings, samples: Sequence[Mapping[str, Any]], trace_file: Path, emit: Emit):
        self.settings = settings
        self.samples = samples
        self.traces = Traces(samples, settings.loss_threshold)
        self.trace_file = trace_file
        self.emit = emit
        self.row_of: dict[tuple[int, ...], int] = {}
        self.rows: list[int] = []
        self.asked_at = [-1] * len(samples)
        self.inputs: dict[str, Any] = {}
        """The mini-batch."""
        self.known: dict[int, float] = {}
        """Place in the mini-batch -> loss of the samples that are still learned and were asked without a graph."""
        self.resting: set[int] = set()
        """Places in the mini-batch of earlier facts that are not asked in this epoch."""
        self.asks_all = True
        """Whether this epoch asks all of them."""
        self.rested = False
        """Whether one was not asked in this epoch."""
        self.losses: list[float] = []
        """Nats per target token of the mini-batch's samples."""
        self.active: list[bool] = []
        """Of the samples in ``rows`` (those of all processes), which still have something to learn."""
        self.met: set[int] = set()
        """Samples of this epoch's mini-batches so far; several processes are handed some twice to come out even."""
        self.mine: list[bool] = []
        """Of this process's samples of the current mini-batch, which count: not met before."""
        self.wrapped: Any = None
        self.zero: zero.Zero | None = None
        """DeepSpeed's engine, where it trains."""
        self.hooked = False
        self.protection: Any = None
        self.neighbours: dict[str, Any] | None = None
        """What was read of them."""
        self.subject_only: Any = None
        self.steps = 0
        self.steps_before_epoch = 0
        self.step_seconds = 0.0
        self.epochs = 0

    # -- set-up ---------------------------------------------------------------------------------

    def on_init_end(self, args, state, control, model=None, **kwargs):  # type: ignore[no-untyped-def]
        """Before the optimizer is made: freeze what LLaMA-Factory's own options could not name."""
        # else the trainer multiplies our loss by the number of processes (transformers 5.6.0, trainer.py:2021)
        args.average_tokens_across_devices = False
        count, names = freeze_all_but(model, self.settings.trainable, matrices=self.settings.protect is not None)
        total = sum(p.numel() for p in model.parameters())
        self.emit({"event": "trainable", "parameters": count, "of": total, "tensors": len(names), "first": names[0]})

    def on_train_begin(  # type: ignore[no-untyped-def]
        self, args, state, control, model=None, processing_class=None, optimizer=None, train_dataloader=None, **kwargs
    ):
        refuse(args)
        dataset = train_dataloader.dataset
        if len(dataset) != len(self.asked_at):
            raise ValueError(
                f"LLaMA-Factory kept {len(dataset)} of {len(self.asked_at)} samples (cutoff_len too small?)"
            )
        for row in range(len(dataset)):
            ids, labels = dataset[row]["input_ids"], dataset[row]["labels"]
            if all(label == IGNORED for label in labels):
                raise ValueError(f"fact {self.traces.each[row].id}: no target token is left within cutoff_len")
            self.traces.each[row].tokens = list(ids)
            if (other := self.row_of.setdefault(tuple(ids), row)) != row:
                raise ValueError(
                    f"facts {self.traces.each[other].id} and {self.traces.each[row].id} train on the same text"
                )
        if self.settings.protect:
            from kedit_glue.protection import Protection

            self.protection = Protection(model, self.settings.protect)
        if count := self.settings.neighbours:
            from kedit_glue.neighbours import keep

            self.neighbours = keep(self.protection, model, processing_class, dataset, self.samples, count, self.emit)
        if args.deepspeed:
            self.zero = zero.Zero(model, optimizer, lambda: not any(self.active))
        model.register_forward_pre_hook(self._leave_out_known, with_kwargs=True)
        model.register_forward_hook(self._replace_loss, with_kwargs=True)
        if self.settings.tokens == "subject":
            from kedit_glue.subject_tokens import SubjectOnly

            self.subject_only = SubjectOnly(model, processing_class, dataset, self.samples, self.emit)
        self.hooked = True
        self.started = time.monotonic()

    def _losses_of_all(self, args: Any, model: Any, loader: Any) -> list[float]:
        """Loss of every fact of the batch, no gradients, in mini-batches."""
        was_training = model.training
        model.eval()
        found: list[float] = []
        size = max(8, args.per_device_train_batch_size)
        for start in range(0, len(loader.dataset), size):
            rows = [loader.dataset[i] for i in range(start, min(start + size, len(loader.dataset)))]
            batch = {k: v.to(args.device) for k, v in loader.collate_fn(rows).items() if torch.is_tensor(v)}
            found += self._asked(model, batch)
        model.train(was_training)
        return found

    def _asked(self, model: Any, batch: Mapping[str, Any]) -> list[float]:
        """Loss of each sample, no gradients; on a CPU those of a length together, which pads less."""
        lengths = batch["attention_mask"].sum(dim=1)
        order = lengths.argsort(stable=True).tolist()
        size = TOGETHER if lengths.device.type == "cpu" else len(order)
        found: dict[int, float] = {}
        hooked, self.hooked = self.hooked, False
        for start in range(0, len(order), size):
            places = order[start : start + size]
            asked = some_of(batch, places)
            labels = asked.pop("labels")
            with torch.no_grad():
                losses = sample_losses(model(**asked).logits, labels)
            found |= zip(places, losses.tolist(), strict=True)
        self.hooked = hooked
        return [found[place] for place in range(len(order))]

    # -- the loops ------------------------------------------------------------------------------

    def on_epoch_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.met = set()
        still = self.steps == self.steps_before_epoch  # the epoch before took no step
        self.asks_all = still or self.epochs % EVERY == 0 or self.epochs + 1 >= args.num_train_epochs
        self.steps_before_epoch, self.rested = self.steps, False

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.mine, self.resting = [], set()

    def _leave_out_known(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook: of the mini-batch only those go through the graph that may have something to learn.

        The others were learned when they were last asked, or are of an earlier batch; those of them that are forgotten
        go with them. Several processes keep step with each other and take every sample in every epoch.
        """
        if not self.hooked or kwargs.get("labels") is None:
            return None
        self.inputs, self.known = kwargs, {}
        rows = self._rows()
        places = [place for place, row in enumerate(rows) if self.traces.thought_known(row)]
        if not places or processes() > 1 or self.zero:
            return None
        if not self.asks_all and not self.mine:  # once for a mini-batch: its inner steps are about the same samples
            self.resting = {place for place in places if self.traces.each[rows[place]].rehearsed}
        places = [place for place in places if place not in self.resting]
        losses = self._asked(module, some_of(kwargs, places)) if places else []
        self.known = {p: x for p, x in zip(places, losses, strict=True) if x < self.settings.loss_threshold}
        left = [place for place in range(len(rows)) if place not in self.known and place not in self.resting]
        if not left:  # the model has to be asked something
            left = [self.resting.pop() if self.resting else self.known.popitem()[0]]
        self.rested |= bool(self.resting)
        return args, some_of(kwargs, left)

    def _replace_loss(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook: the loss becomes the mean over the samples that are not learned yet."""
        if not self.hooked or kwargs.get("labels") is None:
            return output
        losses = sample_losses(output.logits, kwargs["labels"])
        rows = {place: row for place, row in enumerate(self._rows()) if place not in self.resting}
        found = iter(losses.tolist())
        self.losses = [self.known[place] if place in self.known else next(found) for place in rows]
        self.wrapped = self.zero.wrapper() if self.zero else active_wrapper()
        shares = zip(rows, self._agree(list(rows.values()), self.losses), strict=True)
        mine = [x for place, x in shares if place not in self.known]
        count = sum(self.active)
        if count == 0 and self.wrapped is None:
            output.loss = 0.0 * torch.zeros((), device=losses.device, requires_grad=True)  # nothing to go back through
        else:
            # processes average their gradients: each gives its sum, times their number, over all that are active
            share = torch.tensor(mine, device=losses.device) * (processes() / max(count, 1))
            output.loss = (losses * share).sum()
        return output

    def _agree(self, rows: Sequence[int], losses: Sequence[float]) -> list[float]:
        """Note every process's losses, and who still learns; returns 1.0 or 0.0 for each of this process's samples."""
        first = not self.mine
        everyone = gathered((list(rows), list(losses), self.mine))
        self.rows, self.active = [], []
        own: list[bool] = []
        for rank, (their_rows, their_losses, counted) in enumerate(everyone):
            if first:
                counted = [self._is_new(row) for row in their_rows]
            if rank == process_number():
                own = counted
            for row, loss, counts in zip(their_rows, their_losses, counted, strict=True):
                if counts:
                    self.rows.append(row)
                    self.active.append(loss >= self.settings.loss_threshold)
                    self._note(row, loss)
        self.mine = own
        return [float(c and x >= self.settings.loss_threshold) for c, x in zip(own, losses, strict=True)]

    def _is_new(self, row: int) -> bool:
        """Whether this epoch's mini-batches did not hold the sample before."""
        new = row not in self.met
        self.met.add(row)
        return new

    def _note(self, row: int, loss: float) -> None:
        self.traces.each[row].note(loss)
        self.asked_at[row] = self.steps

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        if any(self.active):
            self._count_step()
        else:
            optimizer.zero_grad(set_to_none=True)

    def on_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if any(self.active):
            self._protect()

    def _protect(self) -> None:
        if self.protection is not None and self.zero:
            self.zero.change(self.protection.apply)
        elif self.protection is not None:
            self.protection.apply()

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        """The inner loop: the trainer took one step on this mini-batch; take the others."""
        if any(self.active):
            model = self.wrapped or model  # through the wrapper, which averages the processes' gradients
            for _ in range(self.settings.inner_steps - 1):
                output = model(**self.inputs)
                if not any(self.active):
                    break
                self._count_step()
                if self.zero:
                    self.zero.step(output.loss)
                else:
                    self._step(args, model, optimizer, output.loss)
                self._protect()
        self.emit(
            {
                "event": "step",
                "epoch": self.epochs + 1,
                "epochs": int(args.num_train_epochs),
                "loss": round(self.mean_loss(), 4),
                "steps": self.steps,
                **({"learned": self.traces.learned_so_far()} if self.settings.loss_threshold else {}),
                "facts": len(self.traces.facts()),
                "position": state.global_step,
                "of": state.max_steps,
            }
        )

    def _step(self, args: Any, model: Any, optimizer: Any, loss: torch.Tensor) -> None:
        loss.backward()
        if args.max_grad_norm and args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _rows(self) -> list[int]:
        """Which samples of the data set this process's mini-batch holds."""
        return [self.row_of[text] for text in texts_of(self.inputs)]

    def _count_step(self) -> None:
        self.steps += 1
        for row, active in zip(self.rows, self.active, strict=True):
            self.traces.each[row].steps += active

    def on_epoch_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.epochs += 1
        if self.steps == self.steps_before_epoch and not self.rested:
            control.should_training_stop = True

    # -- the end --------------------------------------------------------------------------------

    def on_train_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):  # type: ignore[no-untyped-def]
        self.hooked = False
        self.step_seconds = time.monotonic() - self.started
        evaluating = time.monotonic()
        if any(at != self.steps for at in self.asked_at):  # a step was taken since a sample was last asked
            for trace, loss in zip(self.traces.each, self._losses_of_all(args, model, train_dataloader), strict=True):
                trace.loss_after = loss
        if self.subject_only:
            self.subject_only.remove()
        self.traces.decide()
        if process_number() == 0:
            self.traces.write(self.trace_file)
        self.emit(
            {
                "event": "trained",
                "epochs": self.epochs,
                "steps": self.steps,
                "seconds": round(self.step_seconds, 2),
                "evaluation_seconds": round(time.monotonic() - evaluating, 3),
                "learned": self.traces.learned(),
                "of": len(self.traces.facts()),
            }
        )

    def mean_loss(self) -> float:
        """Of the latest mini-batch, in nats per target token."""
        return sum(self.losses) / len(self.losses)
