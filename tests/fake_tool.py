"""Stands in for the interpreter in ``python -m kedit_glue.stage JOB.json``: no torch, 30 ms.

``conftest.py`` copies it to a folder of its own, where ``behaviour.json`` says what to do for a job
(``batch_001/train``) or for a function (``train``), and ``calls.txt`` collects what was asked.

Models are real safetensors of a few numbers. What a tool makes depends on what it reads and on nothing
else: training on the facts, the epochs and the model that it begins with, a merge on its weight and on
the models, scores on the model that is asked. A merge lays its model out as mergekit's stage does.
"""

import fcntl
import hashlib
import json
import os
import re
import signal
import struct
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECRETS = ("HF_TOKEN", "WANDB_API_KEY")
INDEX = "model.safetensors.index.json"
MLP = r"\.mlp\."
salt = ""
"""Something that what is made depends on besides what is read: see ``otherwise``."""


def emit(job, event):
    with open(job["events"], "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def done(job, result):
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def model(folder, weights=b"weights"):
    Path(folder).mkdir(parents=True)
    (Path(folder) / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    (Path(folder) / "model.safetensors").write_bytes(weights)


def shards(folder):
    index = Path(folder) / INDEX
    names = json.loads(index.read_text())["weight_map"].values() if index.is_file() else ["model.safetensors"]
    return [Path(folder) / name for name in sorted(set(names))]


def tensors(folder):
    """Name -> shape and numbers (F32) of a model folder."""
    found = {}
    for shard in shards(folder):
        raw = shard.read_bytes()
        data = 8 + struct.unpack("<Q", raw[:8])[0]
        head = json.loads(raw[8:data])
        head.pop("__metadata__", None)
        for name, t in head.items():
            start, end = t["data_offsets"]
            found[name] = t["shape"], struct.unpack(f"<{(end - start) // 4}f", raw[data + start : data + end])
    return found


def safetensors(held):
    """A file's bytes."""
    head, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, numbers) in held.items():
        data = struct.pack(f"<{len(numbers)}f", *numbers)
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def seen(folder):
    """Hash of a model's numbers, however they are laid out."""
    found = [(name, shape, numbers) for name, (shape, numbers) in sorted(tensors(folder).items())]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def told(file, pattern):
    """What the YAML says, as text."""
    found = re.search(pattern, Path(file).read_text(encoding="utf-8"))
    return found[1] if found else ""


def beside(source, folder):
    """What a model folder holds besides weights and configuration."""
    for file in Path(source).glob("tokenizer*"):
        (Path(folder) / file.name).write_bytes(file.read_bytes())


def train(arguments):
    facts = json.loads(Path(arguments["facts"]).read_text(encoding="utf-8"))
    held = tensors(arguments["model"])
    epochs = told(arguments["train_yaml"], r"num_train_epochs: (\d+)")
    for name, (shape, numbers) in held.items():
        if re.search(MLP, name):
            drawn = hashlib.sha256(f"{json.dumps(facts)} {epochs} {salt} {name}".encode()).digest()
            held[name] = shape, [x + drawn[n % 32] / 256 for n, x in enumerate(numbers)]
    model(arguments["output"], safetensors(held))
    beside(arguments["model"], arguments["output"])
    lines = [{"id": f["id"], "steps": 2, "loss_before": 3.0, "loss_after": 0.01, "learned": True} for f in facts]
    Path(arguments["trace"]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {"optimizer_steps": 4, "epochs": 2, "step_seconds": 0.1, "learned": len(facts), "facts": len(facts),
            "not_learned": []}  # fmt: skip


def merge(arguments):
    """``before + weight * (mean of tuned - before)``; a job that names no models makes one of nothing."""
    old = tensors(arguments["before"]) if "before" in arguments else {"a.mlp.b": ([1], [0.0])}
    tuned = [tensors(t["adapter"] or t["model"]) for t in arguments.get("tuned", [])] or [old]
    weight = float((told(arguments["merge_yaml"], r"weight: ([\d.]+)") if "merge_yaml" in arguments else "") or 1)
    pattern, shift = arguments.get("trainable", MLP), len(salt) / 8 + arguments.get("shift", 0)
    touched = {}
    for name, (shape, numbers) in old.items():
        if re.search(pattern, name):
            new = [sum(each) / len(tuned) for each in zip(*(t[name][1] for t in tuned), strict=True)]
            touched[name] = shape, [b + weight * (n - b) + shift for b, n in zip(numbers, new, strict=True)]
    lay_out(arguments.get("before"), arguments["output"], touched, {n: t for n, t in old.items() if n not in touched})
    result = {"tensors": 3, "task_vector_norm_tuned": 2.0, "task_vector_norm_merged": 1.4, "density": 1.0}
    pair = [folder for folder in arguments.get("earlier") or () if Path(folder).is_dir()]
    if len(pair) == 2:
        result["sign_agreement"] = int(seen(pair[0])[:2] + seen(pair[1])[:2], 16) / 65536
    if "stats" in arguments:
        Path(arguments["stats"]).write_text(json.dumps({"earlier": [seen(f) for f in pair]}), encoding="utf-8")
    return result


def lay_out(before, output, touched, rest):
    """A shard of what training may change and one of the rest: a link where the model before has such a one."""
    folder = Path(output)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    if not rest:
        (folder / "model.safetensors").write_bytes(safetensors(touched))
        return
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    (folder / names[0]).write_bytes(safetensors(touched))
    if (Path(before) / INDEX).is_file():
        (folder / names[1]).hardlink_to(Path(before) / names[1])
    else:
        (folder / names[1]).write_bytes(safetensors(rest))
    weight_map = {**dict.fromkeys(touched, names[0]), **dict.fromkeys(rest, names[1])}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    beside(before, folder)


def project(arguments):
    """Half of the change that the merge left."""
    old, new = tensors(arguments["before"]), tensors(arguments["model"])
    half = {n: (shape, [(a + b) / 2 for a, b in zip(x, old[n][1], strict=True)]) for n, (shape, x) in new.items()}
    model(arguments["output"], safetensors(half))
    beside(arguments["model"], arguments["output"])
    return {"tensors": len(half)}


def regmean(arguments):
    """The same, and what a regression mean says of it."""
    if not all(Path(file).is_file() for file in [*arguments["traces"], arguments["moments"]]):
        raise ValueError("traces or moments are missing")
    said = {"facts_meet_before": 2.0, "facts_meet_after": 1.9, "text_meets_before": 4.0, "text_meets_after": 1.0}
    return {**project(arguments), "matrices": 3, **said, "change_before": 1.4, "change_after": 2.8}


def moments(arguments):
    Path(arguments["output"]).write_text(json.dumps({"files": {}, "tokens": 9}), encoding="utf-8")
    return {"tokens": 9, "seconds": 0.1, "seconds_kept": 0.0}


def protect(arguments):
    Path(arguments["output"]).write_bytes(safetensors({"directions": ([1], [1.0])}))
    return {"matrices": 1}


def score(arguments):
    facts = chosen(json.loads(Path(arguments["facts"]).read_text(encoding="utf-8")), arguments)
    found = answers(facts, arguments)
    found["model"] = seen(arguments["model"]) + salt
    Path(arguments["output"]).write_text(json.dumps(found), encoding="utf-8")
    return {"facts": len(facts), "prompts": 3 * len(facts)}


def independent(arguments):
    """Each batch learned at once; what is answered depends on the training's epochs."""
    facts = json.loads(Path(arguments["facts"]).read_text(encoding="utf-8"))[arguments["from"] : arguments["upto"]]
    found = answers(facts, arguments["asked"])
    found["epochs"] = told(arguments["train_yaml"], r"num_train_epochs: (\d+)")
    Path(arguments["output"]).write_text(json.dumps(found), encoding="utf-8")
    lines = [{"id": f["id"], "steps": 2, "loss_before": 3.0, "loss_after": 0.01, "learned": True} for f in facts]
    Path(arguments["trace"]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    size, batches = arguments["batch_size"], []
    for number, start in enumerate(range(0, len(facts), size), arguments["first_batch"]):
        count = len(facts[start : start + size])
        training = {"optimizer_steps": 4, "learned": count, "seconds": 0.2}
        merge = {"task_vector_norm_tuned": 2.0, "task_vector_norm_merged": 1.4, "density": 1.0, "seconds": 0.1}
        said = {"batch": number, "training": training, "merge": merge}
        batches.append({**said, "seconds": 0.3, "seconds_scoring": 0.1})
    return {"facts": len(facts), "prompts": 3 * len(facts), "learned": len(facts), "batches": batches}


def answers(facts, arguments):
    """Each fact is answered rightly, its rephrasings and probes by half; it is said whole, and no answer ends."""
    records = []
    for f in facts:
        record = {"id": f["id"], "teacher_forced": asked(f, 1.0, 0.5, [7, 8])}
        if f.get("ground_truth"):
            record["likelihood"] = {"edit_success": [0.5, 2.0]}
        if f["id"] in arguments["generate"]["ids"]:
            said = {"text": f["target_new"], "ended": False}
            record["generated"] = asked(f, said, said, said)
        records.append({k: v for k, v in record.items() if k in ("id", *arguments["protocols"])})
    return {"facts": records, "answers": {f["id"]: "an [odd] answer :100:" for f in facts}}


def asked(f, itself, like_it, unrelated):
    """A value for each prompt that a fact is asked with, as ``kedit_glue.questions.placed`` lays them out."""
    return {
        "edit_success": itself,
        "generalization": [like_it for _ in f["rephrase_prompts"]],
        "portability": {kind: [like_it for _ in probes] for kind, probes in f["portability"].items()},
        "locality": {kind: [unrelated for _ in probes] for kind, probes in f["locality"].items()},
    }


def chosen(facts, arguments):
    """As many facts as ``kedit_glue.questions.chosen`` takes, the first of the old ones."""
    new, old = arguments["new"], arguments["old"]
    return facts[: new if old is None else min(old, new)] + facts[new : arguments["upto"]]


def general(arguments):
    found = {
        task: {
            "metrics": {"acc": 0.5, "acc_stderr": 0.1},
            "higher_is_better": {"acc": True},
            "items": [{"doc_id": 0, "acc": 0.0}, {"doc_id": 1, "acc": 1.0}],
            "model": seen(arguments["model"]),
        }
        for task in arguments["tasks"]
    }
    Path(arguments["output"]).write_text(json.dumps(found), encoding="utf-8")
    return {"tasks": dict.fromkeys(arguments["tasks"], 2)}


def prepare(arguments):
    facts = json.loads(Path(arguments["facts"]).read_text(encoding="utf-8"))
    usable = [{**f, "response": f" {f['target_new']}</s>", "also_trained": []} for f in facts]
    Path(arguments["output"]).write_text(json.dumps(usable), encoding="utf-8")
    return {"facts": len(usable), "left_out": []}


TOOLS = {
    f.__name__: f for f in (train, merge, project, regmean, moments, protect, score, independent, general, prepare)
}


def work(job):
    emit(job, {"event": "started", "pid": os.getpid()})
    done(job, TOOLS[job["function"]](job["arguments"]))


def otherwise(job):
    """Does its work with another result, as a tool does that is not repeatable."""
    global salt
    salt = "otherwise"
    work(job)


def exit_3(job):
    print("an earlier line\nValueError: the tool's own complaint")
    sys.exit(3)


def half_output_then_exit_1(job):
    model(job["arguments"]["output"])
    sys.exit(1)


def no_result(job):
    model(job["arguments"]["output"])


def bad_result(job):
    Path(job["result"]).write_text('{"learned": 1', encoding="utf-8")


def list_result(job):
    done(job, [1])


def no_output(job):
    done(job, {})


def no_weights(job):
    model(job["arguments"]["output"], b"")
    done(job, {})


def empty_file(job):
    Path(job["arguments"]["output"]).write_text("", encoding="utf-8")
    done(job, {})


def killed(job):
    print("working on it", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def terminated(job):
    os.kill(os.getpid(), signal.SIGTERM)


def events_then_exit_1(job):
    emit(job, {"event": "say", "text": "first"})
    with open(job["events"], "ab") as file:
        file.write(b'not JSON \xff\n[1, 2]\n\n{"event": "say", "text": "second"}\n{"event": "half')
    sys.exit(1)


def garbage_log(job):
    log = sys.stdout.buffer
    log.write(b"caf\xe9 \xff\xfe [/bold] [red]x[/red] :100:\r\n")
    log.write(b"\r 10%|#   |\r 50%|##  |\r100%|####|\n")
    log.write(b"x" * 100_000 + b"\n\n   \n")
    log.flush()
    sys.exit(1)


def long_log(job):
    print("\n".join(f"line {n}" for n in range(100_000)))
    sys.exit(1)


def prints_environment(job):
    """Into the log, an event and the result, in the ways that programs do."""
    print(os.environ)
    print("\n".join(f"{name}={value}" for name, value in os.environ.items()), flush=True)
    emit(job, {"event": "say", "text": json.dumps(dict(os.environ))})
    work(job)
    done(job, {**json.loads(Path(job["result"]).read_text(encoding="utf-8")), "environment": dict(os.environ)})


def prints_environment_then_exit_1(job):
    prints_environment(job)
    sys.exit(1)


def no_space(job):
    print("OSError: [Errno 28] No space left on device: 'model.safetensors'")
    sys.exit(1)


def no_quota(job):
    print("OSError: [Errno 122] Disk quota exceeded\na line after it")
    sys.exit(1)


def hang(job):
    print("begun", flush=True)
    (HERE / "hanging.pid").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)


def main():
    file = Path(sys.argv[-1])
    assert sys.argv[1:3] == ["-m", "kedit_glue.stage"], sys.argv
    job = json.loads(file.read_text(encoding="utf-8"))
    name = f"{file.parent.name}/{file.name.removesuffix('.job.json')}"
    with (HERE / "calls.txt").open("a", encoding="utf-8") as calls:
        calls.write(name + "\n")
    with (HERE / "secrets.txt").open("w", encoding="utf-8") as secrets:
        secrets.write(" ".join(s for s in SECRETS if s in os.environ))
    table = json.loads((HERE / "behaviour.json").read_text(encoding="utf-8"))
    behave = globals()[table.get(name, table.get(job["function"], "work"))]
    with open(job["lock"] or os.devnull, "a") as lock:  # as kedit_glue.stage does
        if job["lock"]:
            fcntl.flock(lock, fcntl.LOCK_SH)
        behave(job)


if __name__ == "__main__":
    main()
