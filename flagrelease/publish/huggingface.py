"""Talking to the Hugging Face Hub, through huggingface_hub.

One `create_commit` with `parent_commit`: the only call of the library that is one commit, and that the hub refuses
where somebody else wrote in between. `upload_folder` sends several commits, and again when an answer is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

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
    asked_wait,
    check_library,
    redacted,
    sent_tokens,
    without_secrets,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDPOINT = "https://huggingface.co"
BRANCH = "main"
BUSY = (429, 500, 502, 503, 504)
"""Answers after which huggingface_hub would wait by itself, for as long as the hub asks."""


class HuggingFaceClient:
    """One hub that speaks Hugging Face's protocol; `pull_requests`: for tokens that may not write to `main`."""

    name = "huggingface"

    def __init__(
        self,
        *,
        endpoint: str = ENDPOINT,
        token: SecretStr | None = None,
        pull_requests: bool = False,
        anonymous: bool = False,
    ) -> None:
        """Without a token the library finds one: HF_TOKEN, a trusted publisher's, the one of `hf auth login`.

        `anonymous`: it sends none, as for an address that may not have it.
        """
        check_library("huggingface_hub")
        self.endpoint = endpoint.rstrip("/")
        self.pull_requests = pull_requests
        self._token, self._anonymous = token, anonymous
        self._made: HfApi | None = None

    def secrets(self) -> tuple[str, ...]:
        """The token."""
        return sent_tokens(self._token, _found_token, anonymous=self._anonymous)

    def state(self, target: str, tag: str | None = None) -> RemoteState | None:
        """The branch `main`, or a tag."""
        with self._answers() as api:
            from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

            try:
                commit = api.repo_info(target, revision=tag or BRANCH).sha
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            return self._listed(api, target, str(commit))

    def _listed(self, api: HfApi, target: str, commit: str) -> RemoteState:
        from huggingface_hub.hf_api import RepoFile

        entries = api.list_repo_tree(target, recursive=True, revision=commit)
        files = {
            entry.path: RemoteFile(size=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None)
            for entry in entries
            if isinstance(entry, RepoFile)
        }
        return RemoteState(head=commit, at=commit, files=files)

    def visibility(self, target: str) -> Visibility | None:
        """As its information says."""
        with self._answers() as api:
            private = api.repo_info(target).private
        return None if private is None else "private" if private else "public"

    def proposed(self, target: str, mark: str) -> tuple[str, RemoteState] | None:
        """The newest open pull request with this mark."""
        with self._answers() as api:
            for found in api.get_repo_discussions(target, discussion_type="pull_request", discussion_status="open"):
                if found.title.endswith(mark):
                    commit = api.repo_info(target, revision=f"refs/pr/{found.num}").sha
                    return found.url, self._listed(api, target, str(commit))
        return None

    def content(self, target: str, path: str, state: RemoteState) -> bytes:
        """A file at its commit."""
        with self._answers():
            from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
            from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

            headers = build_hf_headers(token=self._sent(), library_name="flagrelease", library_version=__version__)
            url = hf_hub_url(target, path, revision=state.at, endpoint=self.endpoint)
            answer = get_session().get(url, headers=headers)
            hf_raise_for_status(answer)
            return bytes(answer.content)

    def create(self, target: str, creation: Creation) -> None:
        """Create a model repository; its licence stands in the card alone."""
        with self._answers() as api:
            api.create_repo(target, private=creation.visibility == "private", exist_ok=True)

    def commit(
        self, target: str, files: Mapping[str, bytes], removed: Sequence[str], title: str, base: RemoteState
    ) -> None:
        """One commit, or one pull request, on top of `base`."""
        with self._answers() as api:
            from huggingface_hub import CommitOperationAdd, CommitOperationDelete

            operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
            operations += [CommitOperationDelete(path, is_folder=False) for path in removed]
            api.create_commit(
                target, operations, commit_message=title, parent_commit=base.head, create_pr=self.pull_requests
            )

    def tag(self, target: str, name: str, state: RemoteState) -> None:
        """Set a tag on exactly the commit."""
        with self._answers() as api:
            api.create_tag(target, tag=name, revision=state.head, exist_ok=True)

    @contextmanager
    def _answers(self) -> Iterator[HfApi]:
        """The library; what it raises within is said in our words."""
        api = self._api()
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield api
        except HfHubHTTPError as error:
            raise self._meaning(error) from without_secrets(error, self.secrets())
        except OfflineModeIsEnabled as error:
            raise PublishError(
                "huggingface_hub may not reach the hub: HF_HUB_OFFLINE is set", remedy="unset it, then try again"
            ) from without_secrets(error, self.secrets())
        except httpx2.HTTPError as error:
            raise UnansweredError(f"the connection broke ({type(error).__name__})") from without_secrets(
                error, self.secrets()
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UnansweredError("the answer is none that huggingface_hub understands") from without_secrets(
                error, self.secrets()
            )
        except ValueError as error:
            # The hub looks at a card's front matter before it takes it.
            raise PublishError(
                f"huggingface did not take it: {self._said(error)}", remedy="correct what it names, then publish again"
            ) from without_secrets(error, self.secrets())
        except RuntimeError as error:
            # Uploads of large files put every fault into one of these.
            if isinstance(error.__cause__, HfHubHTTPError):
                raise self._meaning(error.__cause__) from without_secrets(error, self.secrets())
            raise UnansweredError(f"an upload broke ({type(error.__cause__ or error).__name__})") from without_secrets(
                error, self.secrets()
            )

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, get_session

        if self._made is None:
            self._made = HfApi(
                endpoint=self.endpoint, token=self._sent(), library_name="flagrelease", library_version=__version__
            )
        session = get_session()
        hooks = session.event_hooks
        if _raise_at_once not in hooks["response"]:
            session.event_hooks = {**hooks, "response": [*hooks["response"], _raise_at_once]}
        return self._made

    def _sent(self) -> str | bool | None:
        """The token as the library takes it: None where it is to find one, False where it is to send none."""
        if self._anonymous:
            return False
        return self._token.get_secret_value() if self._token else None

    def _meaning(self, error: Any) -> Exception:
        """What an answer of the hub means for us."""
        status = error.response.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return ThrottledError(asked_wait({name.lower(): value for name, value in error.response.headers.items()}))
        if status == HTTPStatus.PRECONDITION_FAILED:
            return MovedError("somebody else wrote at the same time")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return UnansweredError(f"the hub answered {status}")
        remedy = "see what it says"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            remedy = "give a token that may do that there (FLAGRELEASE_HUGGINGFACE_TOKEN); one that may only open pull "
            remedy += "requests needs FLAGRELEASE_HUGGINGFACE_PULL_REQUESTS=true"
        return PublishError(f"huggingface refused, {status}: {self._said(error)}", remedy=remedy)

    def _said(self, error: Any) -> str:
        return redacted(getattr(error, "server_message", None) or str(error), self.secrets())


def _found_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _raise_at_once(response: Any) -> None:
    """Turn an answer into an exception that huggingface_hub does not wait after; only for requests of ours."""
    from huggingface_hub import hf_raise_for_status

    if response.status_code in BUSY and "flagrelease/" in response.request.headers.get("user-agent", ""):
        response.read()
        hf_raise_for_status(response)
