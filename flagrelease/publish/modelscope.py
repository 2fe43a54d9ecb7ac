"""Talking to ModelScope, through modelscope-hub.

Its uploads create a public repository for a mistyped name, commit again when an answer is lost, and skip files by a
local cache; so only the single requests below them are used: one list of blobs, one commit. The hub takes a commit
whatever it is based on. It is read right before and after, and the moment in between stays: see docs/publishing.md.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from flagrelease import __version__
from flagrelease.errors import PublishError
from flagrelease.publication_policy import Visibility
from flagrelease.publish.hub_client import (
    Creation,
    MovedError,
    RemoteFile,
    RemoteState,
    ThrottledError,
    UnansweredError,
    check_library,
    redacted,
    sent_tokens,
    without_secrets,
)
from flagrelease.publish.hub_reading import sha256
from flagrelease.records import digest

if TYPE_CHECKING:
    from modelscope_hub._legacy_api import LegacyClient

ENDPOINT = "https://modelscope.cn"
BRANCH = "master"
VISIBILITY: Mapping[Visibility, int] = {"private": 1, "public": 5}
"""As the hub numbers it; 3 is `internal`, which is wider than private."""


class ModelScopeClient:
    """One hub that speaks ModelScope's protocol."""

    name = "modelscope"
    pull_requests = False

    def __init__(self, *, endpoint: str = ENDPOINT, token: SecretStr | None = None, anonymous: bool = False) -> None:
        """Without a token, the library's own way counts: MODELSCOPE_API_TOKEN, the one of `ms login`.

        `anonymous`: none is sent, as to an address that may not have it.
        """
        check_library("modelscope_hub")
        self.endpoint = endpoint.rstrip("/")
        self._token, self._anonymous = token, anonymous
        self._made: LegacyClient | None = None

    def secrets(self) -> tuple[str, ...]:
        """The token."""
        return sent_tokens(self._token, _found_token, anonymous=self._anonymous)

    def state(self, target: str, tag: str | None = None) -> RemoteState | None:
        """The branch `master`, or a tag. Its name is a hash over the listing, as the hub's own is not handed on."""
        from modelscope_hub.errors import NotExistError

        with self._answers() as api:
            try:
                api.get_repo_info(target, "model")
                if tag is not None:
                    _, tags = api.list_revisions_detail(target, "model")
                    if tag not in {entry.get("Revision") for entry in tags}:
                        return None
                entries = api.list_repo_files(target, "model", revision=tag or BRANCH, recursive=True)
            except NotExistError:
                return None
            files = {
                entry["Path"]: RemoteFile(size=entry.get("Size"), sha256=entry.get("Sha256") or None)
                for entry in entries
                if entry.get("Type") != "tree"
            }
        head = digest(sorted([path, file.sha256, file.size] for path, file in files.items()))
        return RemoteState(head=head, at=tag or BRANCH, files=files)

    def visibility(self, target: str) -> Visibility | None:
        """As its information says."""
        with self._answers() as api:
            number = api.get_repo_info(target, "model").get("Visibility")
        return next((name for name, known in VISIBILITY.items() if known == number), None)

    def proposed(self, target: str, mark: str) -> None:  # noqa: ARG002 - as every hub is asked
        """ModelScope's protocol has no pull requests."""
        return

    def content(self, target: str, path: str, state: RemoteState) -> bytes:
        """A file of the branch or tag."""
        with self._answers() as api, api.download_stream(target, "model", path, revision=state.at) as answer:
            return bytes(answer.content)

    def create(self, target: str, creation: Creation) -> None:
        """Create a model repository. Its visibility cannot be changed with a token later."""
        from modelscope_hub.errors import AlreadyExistsError

        organisation, _, name = target.partition("/")
        body = {
            "Path": organisation,
            "Name": name,
            "Visibility": VISIBILITY[creation.visibility],
            "License": creation.licence,
        }
        with self._answers() as api:
            try:
                api.create_repo("model", body)
            except AlreadyExistsError:
                return

    def commit(
        self, target: str, files: Mapping[str, bytes], removed: Sequence[str], title: str, base: RemoteState
    ) -> None:
        """Large files first, as objects that nothing names yet; then, where nobody wrote since `base`, one commit."""
        actions = [_action(path, content) for path, content in files.items()]
        actions += [_action(path, None) for path in removed]
        self._upload(target, [files[action["path"]] for action in actions if action["type"] == "lfs"])
        now = self.state(target)
        if now is None or now.head != base.head:
            raise MovedError("somebody else wrote at the same time")
        with self._answers() as api:
            api.create_commit(target, "model", actions, title, revision=BRANCH)

    def _upload(self, target: str, contents: Sequence[bytes]) -> None:
        """Bring files into the hub's store; those that it has already are not sent."""
        by_hash = {sha256(content): content for content in contents}
        if not by_hash:
            return
        with self._answers() as api:
            objects = [{"oid": oid, "size": len(content)} for oid, content in by_hash.items()]
            for oid, href in api.validate_blobs(target, "model", objects).items():
                if href and oid in by_hash:
                    self._put(api, href, by_hash[oid])

    def _put(self, api: LegacyClient, href: str, content: bytes) -> None:
        """Send one file; the token goes to the hub's own hosts only, whatever address it names."""
        import requests

        if _site(href) == _site(self.endpoint):
            api.upload_blob(href, content, len(content))
            return
        answer = requests.put(href, data=content, timeout=(10, 600))
        if not answer.ok:
            raise UnansweredError(f"an upload was answered {answer.status_code}")

    def tag(self, target: str, name: str, state: RemoteState) -> None:  # noqa: ARG002 - the hub takes only a branch
        """Set a tag on the branch; the hub has no other way, so the tag is to be read afterwards."""
        from modelscope_hub.errors import InvalidParameter

        with self._answers() as api:
            try:
                api.create_tag(target, "model", name, BRANCH)
            except InvalidParameter as error:
                if "exist" not in str(error).lower():
                    raise

    @contextmanager
    def _answers(self) -> Iterator[LegacyClient]:
        """The library; what it raises within is said in our words."""
        import requests
        from modelscope_hub.errors import APIError, NetworkError, RateLimitError

        try:
            yield self._api()
        except RateLimitError as error:
            raise ThrottledError(error.retry_after) from without_secrets(error, self.secrets())
        except APIError as error:
            raise self._meaning(error) from without_secrets(error, self.secrets())
        except (NetworkError, requests.RequestException) as error:
            raise UnansweredError(f"the connection broke ({type(error).__name__})") from without_secrets(
                error, self.secrets()
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise UnansweredError("the answer is none that modelscope-hub understands") from without_secrets(
                error, self.secrets()
            )

    def _api(self) -> LegacyClient:
        # Not `HubApi().legacy`: that one waits by itself for as long as the hub asks, and writes an id into the home
        # folder unless it is told what to call itself.
        from modelscope_hub import __version__ as library
        from modelscope_hub._legacy_api import LegacyClient

        if self._made is None:
            token = next(iter(self.secrets()), None)
            agent = f"modelscope_hub/{library} flagrelease/{__version__}"
            self._made = LegacyClient(token, self.endpoint, max_retries=0, user_agent=agent)
        return self._made

    def _meaning(self, error: Any) -> Exception:
        """What an answer of the hub means for us."""
        from modelscope_hub.errors import AuthenticationError, PermissionDeniedError, ServerError

        status = error.status_code or 0
        if isinstance(error, ServerError) and 0 < status < HTTPStatus.INTERNAL_SERVER_ERROR:
            # The library's name for a race of two commits for a branch.
            return MovedError("somebody else wrote at the same time")
        if isinstance(error, ServerError):
            # Without a status it is an answer to a read that the library was told not to wait after.
            return UnansweredError(f"the hub answered {status or 'that it is busy or broken'}")
        remedy = "see what it says"
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            remedy = "give a token that may do that there (FLAGRELEASE_MODELSCOPE_TOKEN)"
        return PublishError(f"modelscope refused, {status}: {redacted(error.message, self.secrets())}", remedy=remedy)


def _found_token() -> str | None:
    from modelscope_hub.config import get_default_config

    return get_default_config().token


def _action(path: str, content: bytes | None) -> dict[str, Any]:
    """One line of a commit; without content a removal."""
    action = {
        "action": "create",
        "path": path,
        "type": "normal",
        "size": 0,
        "sha256": "",
        "content": "",
        "encoding": "",
    }
    if content is None:
        return action | {"action": "delete"}
    if _is_large(path, len(content)):
        return action | {"type": "lfs", "size": len(content), "sha256": sha256(content)}
    return action | {"size": len(content), "content": base64.b64encode(content).decode(), "encoding": "base64"}


def _is_large(path: str, size: int) -> bool:
    """Whether a file goes into the hub's store of large files, by the library's own numbers."""
    from modelscope_hub import constants

    name = PurePosixPath(path)
    if name.name.upper() in {listed.upper() for listed in constants.UPLOAD_INLINE_METADATA_PATHS}:
        return False
    return size > constants.UPLOAD_LFS_FORCE_THRESHOLD_BYTES or name.suffix.lower() in constants.MODEL_LFS_SUFFIX


def _site(url: str) -> tuple[str, str]:
    """Scheme and host of an address, the host by its last two names; an IP address as it is, with its port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme, parts.netloc if host.replace(".", "").isdecimal() else ".".join(host.split(".")[-2:])
