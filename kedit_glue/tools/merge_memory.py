"""mergekit merges matrices that are in memory, by a merge YAML, into memory: its own planner and methods, no shards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kedit_glue import merge_record
from kedit_glue.atomic import link_or_copy
from kedit_glue.merge_record import MergeError
from kedit_glue.merging import renamed
from kedit_glue.tools import mergekit


def merged_in_memory(config: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> tensor, of those that ``trainable`` finds, as ``mergekit-yaml`` would write them; nothing is written.

    ``config``: a merge YAML's content; ``job``: as for ``mergekit.merge``. ``MergePlanner.plan_in_memory`` would say
    the same, but pydantic 2.12 cannot make its tasks (mergekit 0.1.5, plan.py:373 and io/tasks.py:253): what the plan
    for the disk would save is taken before it is saved.
    """
    import torch
    from mergekit.architecture import get_architecture_info
    from mergekit.common import dtype_from_name
    from mergekit.config import MergeConfiguration
    from mergekit.graph import Executor
    from mergekit.io.tasks import LoaderCache, SaveTensor
    from mergekit.merge import _model_out_config
    from mergekit.plan import MergePlanner
    from transformers.trainer_utils import set_seed

    set_seed(job["seed"])  # as run_merge does (merge.py:37)
    parsed = MergeConfiguration.model_validate(config)
    way, options = mergekit.choose_way(parsed, job), mergekit.options(job, "")
    info = get_architecture_info(parsed, options)
    LoaderCache().setup(options=options)
    shape = _model_out_config(parsed, info, trust_remote_code=options.trust_remote_code)
    planned = MergePlanner(parsed, info, options=options, out_model_config=shape).plan_to_disk(out_path="")
    pattern = re.compile(job["trainable"])
    saved = {t.tensor_task: t for t in planned if isinstance(t, SaveTensor)}
    wanted = {task: save for task, save in saved.items() if pattern.search(save.tensor_name)}
    others = [task for task in saved if task not in wanted] if way.draws else []
    found = {}
    with torch.no_grad():
        executor = Executor([*others, *wanted], math_device=job["device"], storage_device="cpu")
        for task, value in executor.run(quiet=True):
            if task in wanted:
                save = wanted[task]
                found[save.tensor_name] = value.to(dtype_from_name(save.dtype)) if save.dtype else value
    return found


class Merger:
    """``merge.yaml`` for one tuned model after another, each with the original."""

    def __init__(self, job: Mapping[str, Any], scratch: Path):
        """``job``: ``merge_yaml``, ``model`` (the original's folder), ``tuned`` (how the YAML names the tuned model; no
        such folder is needed), ``trainable``, ``seed``, ``device``, ``trust_remote_code``; ``scratch``: empty folder.

        Raises MergeError for a YAML that the touched matrices are not enough for.
        """
        from mergekit.config import MergeConfiguration

        self.source = Path(job["merge_yaml"]).read_text(encoding="utf-8")
        raw = yaml.safe_load(self.source)
        if unknown := mergekit.dropped_keys(raw):
            raise MergeError(f"{job['merge_yaml']}: mergekit knows no key {', '.join(unknown)}")
        original, self.scratch, self.tuned = Path(job["model"]), scratch, scratch / "tuned"
        self.tuned.mkdir()
        for file in original.iterdir():  # what training does not touch is the original's
            if file.is_file():
                link_or_copy(file, self.tuned / file.name)
        self.raw = renamed(raw, {job["tuned"]: str(self.tuned)})
        models = {"original": str(original), "before": str(original)}
        self.job = {**job, **models, "tuned": [{"model": str(self.tuned), "adapter": None}]}
        self.way = mergekit.choose_way(MergeConfiguration.model_validate(self.raw), self.job)
        if self.way.whole:
            raise MergeError(
                f"{self.way.reason}, and in memory the trained matrices alone are merged: take that out of "
                f"{job['merge_yaml']}, or set edits.mode: sequential"
            )

    def merge(self, original: Mapping[str, Any], tuned: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The merged matrices, and what the merge did (as ``tools/mergekit.merge`` returns it).

        Name -> matrix, of those that training touches. Raises MergeError as that does.
        """
        from mergekit.config import MergeConfiguration

        if strayed := next((name for name in tuned if not re.search(self.job["trainable"], name)), None):
            raise MergeError(
                f"rsft.yaml trains {strayed}, which {self.job['trainable']!r} does not find: say in the recipe what is "
                "trained (train.modules, train.layers or train.parameters)"
            )
        # planning writes into the configuration (mergekit 0.1.5, plan.py:93)
        config = MergeConfiguration.model_validate(self.raw)
        output = self.scratch / "merged"
        with kept_in_memory(self.tuned, tuned) as merged, mergekit.adapters_aside(output) as aside:
            job = {**self.job, "output": str(output)}
            asked = mergekit.run_mergekit(config, self.source, job, self.way, aside, tokenizer=False)
        # mergekit leaves what it merged on the CPU (mergekit 0.1.5, merge.py:77)
        merged = {name: value.to(original[name].device) for name, value in merged.items()}
        changes = {name: merge_record.measure(original[name], [tuned[name]], merged[name]) for name in tuned}
        for name, change in changes.items():
            merge_record.check_finite(name, change)
        merge_record.check_something_left(merge_record.added(changes.values()))
        merge_record.check_not_the_tuned(config.merge_method, changes, asked)
        return merged, {**mergekit.norms(changes), "way": self.way.said}


@contextmanager
def kept_in_memory(folder: Path, held: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Inside, mergekit takes ``held`` for what ``folder`` holds by those names; yields what it would write, by name.

    ``run_merge`` reads models through a cache of loaders by their paths (mergekit 0.1.5, io/tasks.py:22) and writes
    through ``TensorWriter`` (io/tasks.py:160).
    """
    from mergekit.common import ModelReference
    from mergekit.io import tasks
    from mergekit.io.lazy_tensor_loader import LazyTensorLoader

    written: dict[str, Any] = {}

    class Reader(LazyTensorLoader):
        def get_tensor(self, key: str, device: str = "cpu", **more: Any) -> Any:
            if key in held:
                return held[key].to(device, copy=True)
            return super().get_tensor(key, device, **more)

    class Writer:
        def __init__(self, *args: Any, **kwargs: Any):
            """No file is opened."""

        def save_tensor(self, name: str, tensor: Any, clone: bool = False) -> None:
            written[name] = tensor.clone()

        def finalize(self) -> None:
            """Nothing is to be closed."""

    reader = LazyTensorLoader.from_disk(str(folder))
    writer = tasks.TensorWriter
    tasks.LoaderCache.loaders[ModelReference.parse(str(folder))] = Reader(reader.index, reader.lazy_unpickle)
    tasks.TensorWriter = Writer
    try:
        yield written
    finally:
        tasks.TensorWriter = writer
        tasks.LoaderCache.loaders.clear()
