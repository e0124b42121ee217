"""Stands in for the interpreter in ``python -m kedit_glue.stage JOB.json``: no torch, 30 ms.

``conftest.py`` copies it to a folder of its own, where ``behaviour.json`` says what to do for a job
(``batch_001/train``) or for a function (``train``), and ``calls.txt`` collects what was asked.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECRETS = ("HF_TOKEN", "WANDB_API_KEY")


def emit(job, event):
    with open(job["events"], "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def done(job, result):
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def model(folder, weights=b"weights"):
    Path(folder).mkdir(parents=True)
    (Path(folder) / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    (Path(folder) / "model.safetensors").write_bytes(weights)


def train(arguments):
    facts = json.loads(Path(arguments["facts"]).read_text(encoding="utf-8"))
    model(arguments["output"])
    lines = [{"id": f["id"], "steps": 2, "loss_before": 3.0, "loss_after": 0.01, "learned": True} for f in facts]
    Path(arguments["trace"]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {"optimizer_steps": 4, "epochs": 2, "step_seconds": 0.1, "learned": len(facts), "facts": len(facts),
            "not_learned": []}  # fmt: skip


def merge(arguments):
    model(arguments["output"])
    if "stats" in arguments:
        Path(arguments["stats"]).write_text("{}", encoding="utf-8")
    return {"tensors": 3, "task_vector_norm_tuned": 2.0, "task_vector_norm_merged": 1.4, "density": 1.0}


def score(arguments):
    facts = [f for f in json.loads(Path(arguments["facts"]).read_text(encoding="utf-8")) if f["id"] in arguments["ids"]]
    kinds = {"portability": lambda probe: 0.5, "locality": lambda probe: [7, 8]}
    answers = [
        {
            "id": f["id"],
            "edit_success": 1.0,
            "generalization": [0.5 for _ in f["rephrase_prompts"]],
            **{metric: {k: [make(p) for p in v] for k, v in f[metric].items()} for metric, make in kinds.items()},
        }
        for f in facts
    ]
    found = {"facts": answers, "answers": {f["id"]: "an [odd] answer :100:" for f in facts}}
    Path(arguments["output"]).write_text(json.dumps(found), encoding="utf-8")
    return {"facts": len(facts), "prompts": 3 * len(facts)}


def general(arguments):
    found = {
        task: {
            "metrics": {"acc": 0.5, "acc_stderr": 0.1},
            "higher_is_better": {"acc": True},
            "items": [{"doc_id": 0, "acc": 0.0}, {"doc_id": 1, "acc": 1.0}],
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


def work(job):
    emit(job, {"event": "started", "pid": os.getpid()})
    result = {"train": train, "merge": merge, "score": score, "general": general, "prepare": prepare}[job["function"]]
    done(job, result(job["arguments"]))


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


def no_space(job):
    print("OSError: [Errno 28] No space left on device: 'model.safetensors'")
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
    with (HERE / "secrets.txt").open("w", encoding="utf-8") as seen:
        seen.write(" ".join(s for s in SECRETS if s in os.environ))
    table = json.loads((HERE / "behaviour.json").read_text(encoding="utf-8"))
    globals()[table.get(name, table.get(job["function"], "work"))](job)


if __name__ == "__main__":
    main()
