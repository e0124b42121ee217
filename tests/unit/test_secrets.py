"""Secrets of the environment stand in no log, record or report, whatever a tool prints."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import job, redact
from kedit_glue import run as cli
from kedit_glue.page.html import plotly
from kedit_glue.progress import Display
from kedit_glue.redact import Redaction, is_secret_name, secrets_of

Output = pytest.CaptureFixture[str]
PLANTED = {
    "HF_TOKEN": "hf_plantedAbCdEfGh",
    "HUGGING_FACE_HUB_TOKEN": "hf_plantedIjKlMnOp",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "OPENAI_API_KEY": "sk-planted-openai",
    "AWS_SECRET_ACCESS_KEY": "planted/AWS+secret/key=",
    "MY_PASSWORD": 'planted "quoted" \\ pass\nword é',
    "HTTPS_PROXY": "http://me:planted-proxy@proxy.example:3128",
    "PIP_INDEX_URL": "https://planted-index@packages.example/simple",
}
KEPT = {"KEYBOARD": "a-keyboard-layout", "TOKENIZERS_PARALLELISM": "a-value-to-keep", "SSH_AUTH_SOCK": "/dev/null"}
PIECES = ("planted", "0123456789abcdef")
"""No piece of a planted value may be left."""


@pytest.fixture
def main(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(cli, "Options", functools.partial(job.Options, python=workplace.tool.python))
    for name, value in (PLANTED | KEPT).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: cli.main([workplace.recipe.name, *arguments])


def found_in(folder: Path, capsys: Output) -> list[str]:
    """Where a planted secret stands: files below ``folder``, or what was printed."""
    printed = capsys.readouterr()
    texts = {"stdout": printed.out, "stderr": printed.err}
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "replace")
            # plotly's own code has one of the pieces, the hexadecimal digits
            texts[str(path.relative_to(folder))] = text.replace(plotly(), "") if path.suffix == ".html" else text
    assert len(texts) > 10
    return [name for name, text in texts.items() if any(piece in text for piece in PIECES)]


def test_a_run_whose_tools_print_all(main: Callable[..., int], workplace: Any, capsys: Output) -> None:
    workplace.tool.behave(dict.fromkeys(("prepare", "train", "merge", "score", "general"), "prints_environment"))
    assert main() == 0
    assert found_in(workplace.run_folder, capsys) == []
    log = (workplace.run_folder / "batch_001" / "train.log").read_text(encoding="utf-8").splitlines()
    assert f"HF_TOKEN={18 * '*'}" in log and f"HTTPS_PROXY=http://{16 * '*'}@proxy.example:3128" in log
    assert [f"{name}={value}" for name, value in KEPT.items() if f"{name}={value}" not in log] == [
        "TOKENIZERS_PARALLELISM=a-value-to-keep"  # which our own setting takes the place of
    ]


def test_a_stage_that_fails(main: Callable[..., int], workplace: Any, capsys: Output) -> None:
    workplace.tool.behave({"batch_001/train": "prints_environment_then_exit_1"})
    assert main() == 1
    assert found_in(workplace.run_folder, capsys) == []


def test_a_stage_that_is_interrupted(
    main: Callable[..., int], workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def stop(self: Display, event: Any) -> None:
        if event["event"] == "say":
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "event", stop)
    workplace.tool.behave({"batch_001/train": "prints_environment"})
    assert main() == 130
    assert found_in(workplace.run_folder, capsys) == []


@pytest.mark.parametrize("arguments", [["--check"], ["--dry-run"], []])
def test_a_quiet_run(main: Callable[..., int], workplace: Any, arguments: list[str], capsys: Output) -> None:
    assert main(*arguments) == 0
    assert found_in(workplace.run_folder, capsys) == []


@pytest.mark.parametrize("key", ["hub_token", "ms_hub_token", "swanlab_api_key", "some_new_password"])
def test_a_recipe_takes_none(key: str, main: Callable[..., int], workplace: Any, capsys: Output) -> None:
    assert main("--set", f"train.extra.{key}=planted") == 2
    err = capsys.readouterr().err
    assert f"train.extra.{key}: a secret must not be set here; " in err and "planted" not in err


def test_a_recipe_takes_no_url_with_a_login(main: Callable[..., int], workplace: Any, capsys: Output) -> None:
    for key in ("model", "train.protect.corpus", "train.extra.some_url"):
        assert main("--set", f"{key}=https://planted@hub.example/x") == 2
        assert capsys.readouterr().err == (
            "1 problem in try.yaml; nothing was started\n"
            f"--set {key}  {key}: a URL with a login in it; allowed: a URL without; a recipe is copied into records\n"
        )


# -- what is a secret ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [*list(PLANTED)[:6], "hf_hub_token", "PGPASSWORD", "DB_PASSWD", "MYSQL_PWD", "OPENAI_APIKEY", "GITHUB_PAT", "AUTH"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["KEYBOARD", "TOKENIZERS_PARALLELISM", "AUTHOR", "PATH", "MONKEY_BUSINESS", "COMPASS", "add_special_tokens"],
)
def test_names_of_others(name: str) -> None:
    assert not is_secret_name(name)


def test_values_that_hide_too_much_are_left(tmp_path: Path) -> None:
    values = {
        "A_KEY": "short",
        "B_KEY": "12345678",
        "C_KEY": str(tmp_path),
        "D_KEY": "longenough\n",
        "E": "not-a-secret",
    }
    assert secrets_of(values) == ("longenough",)


def test_one_secret_in_another() -> None:
    assert Redaction({"A_KEY": "abcdefgh", "B_KEY": "abcdefghij"}).text("1 abcdefgh 2 abcdefghij 3") == (
        f"1 {8 * '*'} 2 {10 * '*'} 3"
    )


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("git+https://u:p@host/x.git", "git+https://***@host/x.git"),
        ("postgres://u@host/x", "postgres://*@host/x"),
        ("https://host/path@2 and me@host", "https://host/path@2 and me@host"),
        ("http://host <me@host>", "http://host <me@host>"),
    ],
)
def test_logins_of_urls(text: str, hidden: str) -> None:
    assert Redaction({}).text(text) == hidden


def test_a_file_is_written_over_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "CHUNK", 1000)
    hides = Redaction({"A_TOKEN": "secret-value"})
    path = tmp_path / "log"
    for start in range(960, 1005):  # over the border of two chunks
        path.write_bytes(b"a" * start + b"secret-value\xff\n" + b"b" * 2000)
        assert hides.file(path)
        assert path.read_bytes() == b"a" * start + b"*" * 12 + b"\xff\n" + b"b" * 2000
    before = path.stat()
    assert not hides.file(path)
    assert path.stat() == before
    assert not hides.file(tmp_path / "none")
    (tmp_path / "empty").touch()
    assert not hides.file(tmp_path / "empty")


def test_json_stays_json() -> None:
    environment = {"A_TOKEN": 'with "quotes" \\ and é\n'}
    for ascii_only in (True, False):
        line = json.dumps({"text": environment["A_TOKEN"], "n": 1}, ensure_ascii=ascii_only)
        assert set(json.loads(Redaction(environment).text(line))["text"].strip()) == {"*"}
