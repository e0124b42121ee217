"""A publication to the hub: one commit, with the login of the user's own ``hf auth login``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit_glue import published
from kedit_glue.problems import CannotStart, listed
from kedit_glue.publication import CARD, MANIFEST, Publication
from kedit_glue.redact import Redaction
from kedit_glue.restore import check_space

MAIN = "main"
OF_THE_HUB = {".gitattributes"}
"""Files that the hub makes in a new repository."""
LOGIN = "log in with: hf auth login (a token that may write), or set HF_TOKEN"


@dataclass(frozen=True)
class Repository:
    """A model repository of the hub, as the command line names it."""

    id: str
    public: bool = False
    branch: str | None = None
    replace: bool = False
    """Whether files of something else may be deleted; its history keeps them."""


def api() -> Any:
    """The hub's client; a test puts its own here."""
    from huggingface_hub import HfApi

    return HfApi(library_name="kedit_glue")


def upload(made: Publication, to: Repository, message: str, client: Any = None) -> str:
    """The commit's address. Nothing is sent before all is known to be allowed. Raises CannotStart with what to do."""
    client = client or api()
    token = client.token or login()
    if not token:
        raise CannotStart(f"not logged in to the hub: {LOGIN}")
    with said_plainly(to, token), tempfile.TemporaryDirectory(prefix="kedit_glue-") as aside:
        before = there(client, to)
        doomed = superseded(client, made, to, before, Path(aside))
        operations = [*additions(made, Path(aside)), *_deletions(doomed)]
        if before is None:
            client.create_repo(to.id, repo_type="model", private=not to.public)
        if to.branch and to.branch != MAIN:
            client.create_branch(to.id, branch=to.branch, exist_ok=True)
        done = client.create_commit(to.id, operations, commit_message=message, revision=to.branch)
    return str(done.commit_url)


def login() -> str | None:
    """The user's own token, from the environment or ``hf auth login``; None without one."""
    from huggingface_hub import get_token

    found: str | None = get_token()
    return found


# -- what is there ------------------------------------------------------------------------------


def there(client: Any, to: Repository) -> list[str] | None:
    """The files that the branch holds, or will when it is made; None where there is no repository.

    Raises CannotStart for a repository that more, or fewer, people see than the user asks for.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        about = client.repo_info(to.id, repo_type="model")
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    if about.private == to.public:
        is_now = "private" if about.private else "public"
        advice = (
            "leave --public away; on its settings page it can be made public, with all of its history"
            if about.private
            else "give --public if everybody may see this, or another name"
        )
        raise CannotStart(f"{to.id} is there already, and {is_now}: {advice}")
    try:
        return list(client.list_repo_files(to.id, revision=to.branch))
    except RevisionNotFoundError:
        return list(client.list_repo_files(to.id))


def superseded(client: Any, made: Publication, to: Repository, before: list[str] | None, aside: Path) -> list[str]:
    """What the commit deletes. Raises CannotStart where that is not this run's and ``to`` does not say so."""
    others = set(before or ()) - OF_THE_HUB
    stale = sorted(others - {item.name for item in made.items})
    if not others or to.replace:
        return stale
    earlier = _manifest(client, to, aside) if MANIFEST in others else None
    if earlier is None:
        why = f"holds {listed(sorted(others), 3)}"
    elif (told := published.of_another(earlier, made)) is not None:
        why = told
    elif strange := sorted(others - earlier["files"].keys() - {MANIFEST}):
        why = f"holds {listed(strange, 3)}, which this run did not send"
    elif CARD in others and published.touched(_fetched(client, to, CARD, aside), earlier["files"].get(CARD, {})):
        why = f"holds a {CARD} that was edited there"
    else:
        return stale
    raise CannotStart(
        f"{to.id} {why}: give another name, or --replace, which deletes in the same commit all that is not of this run "
        "(its history stays; with --revision BRANCH only that branch changes)"
    )


def _manifest(client: Any, to: Repository, aside: Path) -> dict[str, Any] | None:
    return published.manifest(_fetched(client, to, MANIFEST, aside))


def _fetched(client: Any, to: Repository, name: str, aside: Path) -> Path:
    """A file of the repository's, from its main branch where ``to`` has none yet."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return Path(client.hf_hub_download(to.id, name, revision=to.branch, local_dir=aside / "earlier"))
    except RevisionNotFoundError:
        return Path(client.hf_hub_download(to.id, name, local_dir=aside / "earlier"))


# -- what is sent -------------------------------------------------------------------------------


def additions(made: Publication, aside: Path) -> list[Any]:
    """The commit's files; tensors that lie in no file of their own are written to ``aside`` first."""
    from huggingface_hub import CommitOperationAdd

    found = []
    for item in made.items:
        content = item.content
        if not isinstance(content, bytes | Path):
            content = aside / item.name
            check_space(item.size, content)
            published.write(item, content)
        elif isinstance(content, Path):
            content = content.resolve()
        found.append(CommitOperationAdd(item.name, content))
    return found


def _deletions(names: list[str]) -> list[Any]:
    from huggingface_hub import CommitOperationDelete

    return [CommitOperationDelete(name) for name in names]


# -- what goes wrong ----------------------------------------------------------------------------


@contextmanager
def said_plainly(to: Repository, token: str) -> Iterator[None]:
    """What the hub, or the way to it, refuses, as CannotStart; the token is in no message."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except CannotStart:
        raise
    except LocalTokenNotFoundError:
        raise CannotStart(f"not logged in to the hub: {LOGIN}") from None
    except OfflineModeIsEnabled:
        raise CannotStart("HF_HUB_OFFLINE is set, so the hub is not asked: unset it and start again") from None
    except HfHubHTTPError as error:
        said = Redaction({"HF_TOKEN": token}).text(str(error.server_message or error).strip().splitlines()[0])
        raise CannotStart(f"{to.id}: {refusal(error.response.status_code, to.id)}\n  the hub said: {said}") from None
    except ValueError as error:  # a card whose front matter the hub does not take
        raise CannotStart(f"{to.id}: the hub's client refuses it: {error}") from None
    except (httpx.TransportError, ConnectionError) as error:
        said = Redaction({"HF_TOKEN": token}).text(f"{type(error).__name__}: {error}")
        raise CannotStart(
            f"the hub cannot be reached ({said}): look at the network, or publish to a folder and send that later: "
            "--to ./out, then hf upload"
        ) from None


def refusal(status: int, repository: str) -> str:
    """What an HTTP status means here, and what to do."""
    owner = repository.partition("/")[0]
    if status == 401:
        return f"the hub does not take this login: {LOGIN}"
    if status == 403:
        return (
            f"this login may not write as {owner}: check the owner's name (hf auth whoami shows yours), and that the "
            "token may write"
        )
    if status == 404:
        return f"the hub knows no owner {owner}, or no such repository or branch: check the name"
    if status == 409:
        return "something else was changed there meanwhile: start this command again"
    if status in (402, 413, 507):
        return "there is no room for so much: look at the account's storage, or publish --only-task-vector"
    if status == 429:
        return "the hub asks to wait: start this command again in some minutes"
    if status >= 500:
        return "the hub has a problem of its own: start this command again later"
    return f"the hub refused it (HTTP {status})"
