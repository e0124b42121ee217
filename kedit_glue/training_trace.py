"""What training did for each sample of a batch: the file beside the tuned model, and what is counted from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


def read(file: Path) -> list[dict[str, Any]]:
    """What ``Traces.write`` wrote, a sample each."""
    # not splitlines(): it also parts a fact's text where JSON does not
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@dataclass
class Trace:
    """What training did for one sample: a fact's prompt, or a rephrasing that is trained on."""

    id: str
    prompt: str
    target_new: str
    tokens: list[int] = field(default_factory=list)
    """The text as it was taught: token ids of prompt and answer, what the template puts around them included."""
    rehearsed: bool = False
    """Of an earlier batch's fact, shown again (``train.rehearse``)."""
    steps: int = 0
    """Optimizer steps that this sample's loss took part in."""
    loss_before: float = float("nan")
    """Nats per target token, end-of-sequence included, when training first met the sample."""
    loss_after: float = float("nan")
    """The same after the batch's last step."""
    learned: bool | None = False
    """``loss_after`` is under the threshold; None where that is 0, and nobody is left alone."""

    def note(self, loss: float) -> None:
        """It was asked."""
        if math.isnan(self.loss_before):
            self.loss_before = loss
        self.loss_after = loss


class Traces:
    """The samples of a batch, in the order of ``edits.json``; ``threshold`` in nats per target token, 0 for none."""

    def __init__(self, samples: Sequence[Mapping[str, Any]], threshold: float):
        self.each = [Trace(s["id"], s["prompt"], s["target_new"], rehearsed=s.get("rehearsed", False)) for s in samples]
        self.threshold = threshold
        self.own = [trace for trace in self.each if not trace.rehearsed]

    def thought_known(self, row: int) -> bool:
        """Whether it was under the threshold when it was last asked; earlier facts are thought so until they are."""
        trace = self.each[row]
        if math.isnan(trace.loss_after):
            return trace.rehearsed and self.threshold > 0
        return trace.loss_after < self.threshold

    def facts(self) -> list[str]:
        """Ids of the batch's own facts, in order."""
        return list(dict.fromkeys(trace.id for trace in self.own))

    def learned_so_far(self) -> int:
        """How many facts are learned, as far as training has asked: each sample counts with its latest loss."""
        behind = {t.id for t in self.own if not t.loss_after < self.threshold}  # nan: not asked yet
        return len(self.facts()) - len(behind)

    def not_learned(self) -> list[str]:
        """Ids of the facts of which some sample's loss is not under the threshold; none where that is 0."""
        return list(dict.fromkeys(trace.id for trace in self.own if trace.learned is False))

    def learned(self) -> int | None:
        """How many facts training ended with under the threshold; None where that is 0."""
        return len(self.facts()) - len(self.not_learned()) if self.threshold else None

    def rehearsed(self) -> dict[str, int]:
        """How many earlier facts were shown again, and how many of them took part in a step: were forgotten."""
        shown, taught = ({t.id for t in self.each if t.rehearsed and t.steps >= least} for least in (0, 1))
        return {"shown": len(shown), "taught": len(taught)}

    def decide(self) -> None:
        """Training is over: who is learned is said by the last loss."""
        for trace in self.each:
            trace.learned = trace.loss_after < self.threshold if self.threshold else None

    def write(self, file: Path) -> None:
        """A line of JSON for each sample."""
        lines = [json.dumps(asdict(trace), ensure_ascii=False) + "\n" for trace in self.each]
        file.write_text("".join(lines), encoding="utf-8")
