"""Who judges a search's candidates: this process, or Ray workers with a model each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kedit_glue.search.paths import Step

LOST = "its worker died"


@dataclass(frozen=True)
class Merge:
    """A candidate: mergekit's YAML, and of a data flow each step with its model's folder."""

    config: Mapping[str, Any]
    path: tuple[tuple[str, Step], ...]


Judged = dict[str, Any]
"""``parts`` or ``cause``, and ``seconds``: see ``Candidates.judge``."""
Judge = Callable[[Sequence[Merge]], list[Judged]]


@contextmanager
def workers(job: Mapping[str, Any], texts: Sequence[str]) -> Iterator[Judge]:
    """Judges several candidates, in their order; models are loaded with the first of them.

    ``texts``: as for ``Candidates``.
    """
    count = job["search"]["workers"]
    if count > 1:
        with on_ray(job, texts, count) as judge:
            yield judge
        return
    own: list[Any] = []

    def judge_here(merges: Sequence[Merge]) -> list[Judged]:
        from kedit_glue.tools.candidates import Candidates

        if merges and not own:
            own.append(Candidates(job, texts))
        return [own[0].judge(merge.config, merge.path) for merge in merges]

    yield judge_here


def fitting(count: int, free: Mapping[str, float], gpus: int) -> int:
    """Of ``count`` workers as many as find a core (and a GPU) now, at least one: others would be waited for forever.

    ``free``: ``ray.available_resources()``; a worker keeps what it was given as long as the search goes on.
    """
    places = [free.get("CPU", 0.0)] + ([free.get("GPU", 0.0)] if gpus else [])
    return max(1, min(count, *map(int, places)))


@contextmanager
def on_ray(job: Mapping[str, Any], texts: Sequence[str], count: int) -> Iterator[Judge]:
    """``count`` actors of a cluster that is there (RAY_ADDRESS), else of one on this machine."""
    import ray

    ray.init(log_to_driver=False, ignore_reinit_error=True)
    gpus = 0 if job["device"] == "cpu" else 1

    @ray.remote(num_cpus=1, num_gpus=gpus)
    class Worker:
        """Loads its models with its first candidate."""

        def __init__(self) -> None:
            self.candidates: Any = None

        def judge(self, merge: Merge) -> Judged:
            from kedit_glue.tools.candidates import Candidates

            self.candidates = self.candidates or Candidates(
                job, texts
            )  # what it raises ends the search, with its words
            found: Judged = self.candidates.judge(merge.config, merge.path)
            return found

    started: Any = Worker
    actors = [started.remote() for _ in range(fitting(count, ray.available_resources(), gpus))]

    def judge(merges: Sequence[Merge]) -> list[Judged]:
        found: dict[int, Judged] = {}
        left, free = list(enumerate(merges)), list(actors)
        busy: dict[Any, tuple[int, Any]] = {}
        while left or busy:
            while left and free:
                at, merge = left.pop(0)
                actor = free.pop(0)
                busy[actor.judge.remote(merge)] = (at, actor)
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            at, actor = busy.pop(done)
            try:
                found[at] = ray.get(done)
            except ray.exceptions.RayActorError:
                found[at] = {"cause": LOST, "seconds": [0.0, 0.0]}
                # a new one: what is given to one that restarts is lost until it is there again
                actors[actors.index(actor)] = actor = started.remote()
            free.append(actor)
        return [found[at] for at in range(len(merges))]

    try:
        yield judge
    finally:
        ray.shutdown()
