"""A publication sent to the hub: what is asked of it, what it refuses, and how that is said. No hub is reached."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, errors

from kedit_glue import hub
from kedit_glue.hub import Repository, refusal, upload
from kedit_glue.problems import CannotStart
from kedit_glue.publication import MANIFEST, Publication, measured
from kedit_glue.weights import read_header

TOKEN = "hf_secretSECRETsecretSECRET"


def tensors(file: Path) -> Path:
    head = json.dumps({"a.mlp.b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + b"\1\2\3\4")
    return file


@pytest.fixture
def made(tmp_path: Path) -> Publication:
    """A card, a file as it lies, tensors that lie in no file of their own, and the manifest."""
    weights = read_header(tensors(tmp_path / "source.safetensors"))
    items = [measured("README.md", b"a card"), measured("config.json", tmp_path / "source.safetensors")]
    items.append(measured("model.safetensors", weights))
    return Publication("task vector", "try", (*items, measured(MANIFEST, manifest("try"))), {})


def manifest(run: str, *names: str, what: str = "task vector") -> bytes:
    files: dict[str, Any] = {name: {} for name in ("README.md", "config.json", "model.safetensors", *names)}
    files["README.md"] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    return json.dumps({"what": what, "run": run, "files": files}).encode()


class FakeHub:
    """The part of ``HfApi`` that is used; ``calls`` tells what was asked of it that changes something."""

    def __init__(self, folder: Path, held: dict[str, bytes] | None = None, private: bool = True):
        self.folder, self.held, self.private = folder, held, private
        self.token: str | None = TOKEN
        self.branches = {"main"}
        self.calls: list[Any] = []
        self.sent: dict[str, bytes] = {}
        self.fails: Exception | None = None
        self.fails_at = "repo_info"

    def _at(self, name: str) -> None:
        if self.fails and self.fails_at == name:
            raise self.fails

    def repo_info(self, repo_id: str, *, repo_type: str) -> Any:
        self._at("repo_info")
        if self.held is None:
            raise errors.RepositoryNotFoundError("none", response=response(404))
        return SimpleNamespace(private=self.private)

    def list_repo_files(self, repo_id: str, *, revision: str | None = None) -> list[str]:
        if revision and revision not in self.branches:
            raise errors.RevisionNotFoundError("none", response=response(404))
        return list(self.held or ())

    def hf_hub_download(self, repo_id: str, name: str, *, local_dir: Path, revision: str | None = None) -> str:
        if revision and revision not in self.branches:
            raise errors.RevisionNotFoundError("none", response=response(404))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes((self.held or {})[name])
        return str(local_dir / name)

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool) -> None:
        self._at("create_repo")
        self.calls.append(("create_repo", repo_id, repo_type, private))

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.calls.append(("create_branch", branch, exist_ok))

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str, revision: str | None) -> Any:
        self._at("create_commit")
        deleted = [o.path_in_repo for o in operations if not hasattr(o, "path_or_fileobj")]
        for add in (o for o in operations if hasattr(o, "path_or_fileobj")):
            with add.as_file() as file:
                self.sent[add.path_in_repo] = file.read()
        self.calls.append(("create_commit", repo_id, commit_message, revision, deleted))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


def response(status: int, text: str = "") -> httpx.Response:
    return httpx.Response(status, text=text, request=httpx.Request("POST", "https://hub/api"))


def refused(client: FakeHub, made: Publication, to: Repository) -> str:
    with pytest.raises(CannotStart) as caught:
        upload(made, to, "m", client)
    assert not client.calls or client.fails_at == "create_commit", "nothing is changed before it is refused"
    return str(caught.value)


# -- what is sent -------------------------------------------------------------------------------


def test_a_new_repository_is_private(made: Publication, tmp_path: Path) -> None:
    client = FakeHub(tmp_path)
    assert upload(made, Repository("me/x"), "first", client) == "https://hub/me/x/commit/1"
    assert client.calls == [("create_repo", "me/x", "model", True), ("create_commit", "me/x", "first", None, [])]
    assert client.sent.keys() == {item.name for item in made.items}
    for item in made.items:
        assert measured(item.name, client.sent[item.name]).sha256 == item.sha256


def test_public_and_a_branch_are_what_the_user_asks_for(made: Publication, tmp_path: Path) -> None:
    client = FakeHub(tmp_path)
    upload(made, Repository("me/x", public=True, branch="v2"), "m", client)
    assert client.calls == [
        ("create_repo", "me/x", "model", False),
        ("create_branch", "v2", True),
        ("create_commit", "me/x", "m", "v2", []),
    ]


def test_an_empty_repository_is_filled(made: Publication, tmp_path: Path) -> None:
    client = FakeHub(tmp_path, {".gitattributes": b""})
    upload(made, Repository("me/x"), "m", client)
    assert client.calls == [("create_commit", "me/x", "m", None, [])]


@pytest.mark.parametrize("branch", [None, "main", "v2"])
def test_an_earlier_publication_of_the_run_is_replaced(made: Publication, tmp_path: Path, branch: str | None) -> None:
    """v2 is not there yet: it begins with what main holds."""
    held = dict.fromkeys(("README.md", "config.json", "old.json", ".gitattributes"), b"")
    client = FakeHub(tmp_path, {**held, MANIFEST: manifest("try", "old.json")})
    upload(made, Repository("me/x", branch=branch), "m", client)
    assert client.calls[-1] == ("create_commit", "me/x", "m", branch, ["old.json"])


OTHERWISE = (
    "give another name, or --replace, which deletes in the same commit all that is not of this run (its history stays; "
    "with --revision BRANCH only that branch changes)"
)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"README.md": b"", "a.bin": b""}, "holds README.md, a.bin"),
        ({"README.md": b"", MANIFEST: manifest("other")}, "holds the task vector of run other"),
        ({"README.md": b"", MANIFEST: manifest("try", what="model")}, "holds the model of run try"),
        ({"README.md": b"", MANIFEST: b"<html>"}, f"holds README.md, {MANIFEST}"),
        ({"mine.txt": b"", MANIFEST: manifest("try")}, "holds mine.txt, which this run did not send"),
        ({"README.md": b"my own card", MANIFEST: manifest("try")}, "holds a README.md that was edited there"),
    ],
)
def test_other_content_stays_unless_it_is_to_be_replaced(
    made: Publication, tmp_path: Path, held: dict[str, bytes], why: str
) -> None:
    assert refused(FakeHub(tmp_path, held), made, Repository("me/x")) == f"me/x {why}: {OTHERWISE}"
    client = FakeHub(tmp_path, held)
    upload(made, Repository("me/x", replace=True), "m", client)
    gone = sorted(held.keys() - {item.name for item in made.items})
    assert client.calls == [("create_commit", "me/x", "m", None, gone)]


def test_a_public_repository_is_not_filled_by_mistake(made: Publication, tmp_path: Path) -> None:
    public, private = FakeHub(tmp_path, {}, private=False), FakeHub(tmp_path, {}, private=True)
    assert refused(public, made, Repository("me/x")) == (
        "me/x is there already, and public: give --public if everybody may see this, or another name"
    )
    assert refused(private, made, Repository("me/x", public=True)) == (
        "me/x is there already, and private: leave --public away; on its settings page it can be made public, with all "
        "of its history"
    )


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, ""])
def test_nobody_is_logged_in(
    made: Publication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setattr(hub, "login", lambda: token)
    client = FakeHub(tmp_path)
    client.token = None
    assert refused(client, made, Repository("me/x")) == (
        "not logged in to the hub: log in with: hf auth login (a token that may write), or set HF_TOKEN"
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the hub does not take this login: log in with: hf auth login (a token that may write), or set HF_TOKEN"),
        (
            403,
            "this login may not write as me: check the owner's name (hf auth whoami shows yours), and that the token ",
        ),
        (404, "the hub knows no owner me, or no such repository or branch: check the name"),
        (409, "something else was changed there meanwhile: start this command again"),
        (413, "there is no room for so much: look at the account's storage, or publish --only-task-vector"),
        (429, "the hub asks to wait: start this command again in some minutes"),
        (418, "the hub refused it (HTTP 418)"),
        (503, "the hub has a problem of its own: start this command again later"),
    ],
)
@pytest.mark.parametrize("at", ["repo_info", "create_repo", "create_commit"])
def test_what_the_hub_refuses(made: Publication, tmp_path: Path, status: int, said: str, at: str) -> None:
    client = FakeHub(tmp_path)
    message = f"no, not with {TOKEN}"
    client.fails = errors.HfHubHTTPError(message, response=response(status), server_message=message)
    client.fails_at = at
    text = refused(client, made, Repository("me/x"))
    assert text.startswith(f"me/x: {said}") and refusal(status, "me/x") in text
    assert text.endswith(f"\n  the hub said: no, not with {'*' * len(TOKEN)}") and TOKEN not in text


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, ConnectionError])
def test_no_way_to_the_hub(made: Publication, tmp_path: Path, error: Callable[[str], Exception]) -> None:
    client = FakeHub(tmp_path)
    client.fails = error(f"no route for {TOKEN}")
    text = refused(client, made, Repository("me/x"))
    assert text.startswith("the hub cannot be reached (") and TOKEN not in text
    assert text.endswith("look at the network, or publish to a folder and send that later: --to ./out, then hf upload")


def test_offline_by_the_environment(made: Publication, tmp_path: Path) -> None:
    client = FakeHub(tmp_path)
    client.fails = errors.OfflineModeIsEnabled("x")
    assert refused(client, made, Repository("me/x")) == (
        "HF_HUB_OFFLINE is set, so the hub is not asked: unset it and start again"
    )


def test_a_card_that_the_hub_does_not_take(made: Publication, tmp_path: Path) -> None:
    client = FakeHub(tmp_path)
    client.fails, client.fails_at = ValueError("Invalid metadata in README.md."), "create_commit"
    assert refused(client, made, Repository("me/x")) == (
        "me/x: the hub's client refuses it: Invalid metadata in README.md."
    )


def test_a_gated_repository_is_no_new_one(made: Publication, tmp_path: Path) -> None:
    client = FakeHub(tmp_path)
    client.fails = errors.GatedRepoError("gated", response=response(403))
    assert "this login may not write as me" in refused(client, made, Repository("me/x"))


# -- the client as it is, against a made-up hub of this machine ---------------------------------


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.status = 200


class Endpoint(BaseHTTPRequestHandler):
    server: Server

    def answer(self, status: int, value: Any, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"POST {path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.status != 200:
            self.answer(self.server.status, {"error": "You don't have the rights"})
        elif path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer(200, {"url": f"http://{self.headers['Host']}/me/x"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            known = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in files]
            self.answer(200, {"files": known})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                200, {"success": True, "commitUrl": f"http://{self.headers['Host']}/c/1", "commitOid": "1" * 40}
            )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made_up:
        thread = threading.Thread(target=made_up.serve_forever, daemon=True)
        thread.start()
        yield made_up
        made_up.shutdown()
        thread.join()


def client_of(server: Server) -> HfApi:
    return HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=TOKEN)


def test_the_clients_own_requests(made: Publication, server: Server) -> None:
    url = upload(made, Repository("me/x"), "first", client_of(server))
    assert url.endswith("/c/1")
    assert server.created["name"] == "x" and server.created["organization"] == "me"
    assert server.created.get("private") is True or server.created.get("visibility") == "private"
    assert server.files.keys() == {item.name for item in made.items}
    for item in made.items:
        assert measured(item.name, server.files[item.name]).sha256 == item.sha256
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert [line.partition("?")[0] for line in server.asked][-1] == "POST /api/models/me/x/commit/main"


def test_a_refusal_of_the_server_is_said_in_words(made: Publication, server: Server) -> None:
    server.status = 403
    with pytest.raises(CannotStart) as caught:
        upload(made, Repository("me/x"), "first", client_of(server))
    assert str(caught.value).startswith("me/x: this login may not write as me: ")
    assert "You don't have the rights" in str(caught.value) and TOKEN not in str(caught.value)


def test_a_port_where_nobody_listens(made: Publication, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(CannotStart, match=r"^the hub cannot be reached"):
        upload(made, Repository("me/x"), "first", client)


def test_links_are_resolved(made: Publication, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path("link.bin")
    monkeypatch.chdir(next(i.content for i in made.items if isinstance(i.content, Path)).parent)
    link.symlink_to("source.safetensors")
    only = Publication("model", "try", (measured("a.bin", link),), {})
    (added,) = hub.additions(only, Path.cwd())
    assert added.path_or_fileobj == str(Path("source.safetensors").resolve())
