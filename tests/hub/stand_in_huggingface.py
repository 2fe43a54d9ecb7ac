"""The protocol of the Hugging Face Hub, as far as publishing models needs it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.hub.git_store import Blob, pointer
from tests.hub.stand_in_hub import Answer, Request, StandInHub

REPOSITORY = r"(?P<name>[^/]+/[^/]+)"
MODEL = f"/api/models/{REPOSITORY}"
LARGE = (".safetensors", ".bin", ".gguf")
LARGEST_REGULAR = 10 * 1024 * 1024
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class PullRequest:
    """One proposal."""

    number: int
    title: str
    status: str = "open"


class StandInHuggingFace(StandInHub):
    """Answers huggingface_hub."""

    BRANCH = "main"
    ROUTES: ClassVar = (
        ("GET", "/api/agent-harnesses", "nothing"),
        ("POST", "/api/repos/create", "create"),
        ("POST", "/api/validate-yaml", "validate"),
        ("POST", f"{MODEL}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", f"{MODEL}/commit/(?P<revision>[^/]+)", "commit"),
        ("GET", MODEL, "info"),
        ("GET", f"{MODEL}/revision/(?P<revision>[^/]+)", "info"),
        ("GET", f"{MODEL}/tree/(?P<revision>[^/]+)", "tree"),
        ("GET", f"{MODEL}/discussions", "discussions"),
        ("POST", f"{MODEL}/tag/(?P<revision>[^/]+)", "tag"),
        ("POST", f"/{REPOSITORY}\\.git/info/lfs/objects/batch", "batch"),
        ("GET", f"{MODEL}/xet-write-token/(?P<revision>[^/]+)", "xet_token"),
        ("PUT", "/objects/(?P<oid>[0-9a-f]{64})", "put"),
        ("HEAD", f"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", f"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def __init__(self, *arguments: Any, read_only: bool = False, **named: Any) -> None:
        """`read_only`: the token may open pull requests only."""
        super().__init__(*arguments, **named)
        self.read_only = read_only
        self.pull_requests: dict[str, list[PullRequest]] = {}
        self.xet: Path | None = None
        """Folder that the library's own simulation of the store for large files writes into; none: the classic way."""

    def refused(self, request: Request, groups: Mapping[str, str]) -> Answer | None:
        given = request.headers.get("authorization")
        if request.path.startswith("/objects/"):
            if given:
                self.foreign_tokens.append(request.path)
            return None
        if request.path in ("/api/agent-harnesses", "/api/validate-yaml"):
            return None
        name = groups.get("name")
        if self.open_to_all(request, name):
            return None
        if given != f"Bearer {self.token}":
            # The hub gives no code where no token came; but without one the library only knows what is meant by
            # addresses with https.
            unknown = _error(401, "Invalid username or password.", "RepoNotFound")
            return _error(401, "Invalid credentials in Authorization header") if given else unknown
        if name is not None and name not in self.store.names():
            return _error(404, "Repository not found", "RepoNotFound")
        return None

    def nothing(self, _: Request) -> Answer:
        return Answer.of({}, 404)

    def create(self, request: Request) -> Answer:
        body = request.json()
        name = f"{body['organization']}/{body['name']}"
        url = f"{self.endpoint}/{name}"
        if body["organization"] not in self.namespaces:
            return _error(403, f"You don't have the rights to create a model under {body['organization']}")
        if name in self.store.names():
            return Answer.of({"error": "You already created this model repo", "url": url, "name": name}, 409)
        self.store.create(name, body.get("visibility", "public"), {".gitattributes": ATTRIBUTES})
        return Answer.of({"url": url, "name": name, "id": name})

    def validate(self, request: Request) -> Answer:
        head = request.json()["content"].split("---\n")
        try:
            data = yaml.safe_load(head[1]) if len(head) > 2 else {}
            wrong = None if isinstance(data, dict) and data.get("license") != "bogus" else '"license" is not valid'
        except yaml.YAMLError as error:
            wrong = str(error)
        errors = [{"message": wrong}] if wrong else []
        return Answer.of({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, request: Request, name: str, revision: str) -> Answer:
        there = {blob.path: blob for blob in self._blobs(name, revision)}
        files = request.json()["files"]
        assert len(files) <= 256
        answer = []
        for file in files:
            large = file["path"].endswith(LARGE) or file["size"] > LARGEST_REGULAR
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if (blob := there.get(file["path"])) is not None:
                entry["oid"] = blob.large[0] if blob.large else blob.oid
            answer.append(entry)
        return Answer.of({"files": answer, "commitOid": self.store.resolve(name, revision)})

    def commit(self, request: Request, name: str, revision: str) -> Answer:
        lines = [json.loads(line) for line in request.body.splitlines()]
        proposed = request.query.get("create_pr") == "1"
        if name.partition("/")[0] not in self.namespaces or (self.read_only and not proposed):
            return _error(403, "Forbidden: you must have write access")
        head = self.store.resolve(name, revision)
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent and parent != head and not proposed:
            return _error(412, "A commit has happened since. Please refresh and try again.")
        files, removed = {}, []
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if not (self.xet or self.store.has_large(value["oid"])):
                    return _error(400, "LFS pointer pointed to a file that does not exist")
                files[value["path"]] = pointer(value["oid"], value["size"])
            elif key == "deletedFile":
                removed.append(value["path"])
        if not proposed:
            commit = self.store.commit(name, files, removed, header["summary"])
            return Answer.of(self._committed(name, commit))
        found = self.pull_requests.setdefault(name, [])
        found.append(PullRequest(len(found) + 1, header["summary"]))
        number = found[-1].number
        commit = self.store.commit(name, files, removed, header["summary"], to=f"refs/pr/{number}", base=parent or head)
        url = f"{self.endpoint}/{name}/discussions/{number}"
        return Answer.of(self._committed(name, commit) | {"pullRequestUrl": url})

    def _committed(self, name: str, commit: str) -> dict[str, Any]:
        url = f"{self.endpoint}/{name}/commit/{commit}"
        return {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""}

    def merge(self, name: str, number: int) -> None:
        """What a person with rights does with a pull request."""
        request = self.pull_requests[name][number - 1]
        commit = self.store.resolve(name, f"refs/pr/{number}")
        assert commit
        self.store.set_reference(name, f"refs/heads/{self.BRANCH}", commit)
        request.status = "merged"

    def info(self, _: Request, name: str, revision: str = "main", *, stale: bool = False) -> Answer:
        commit = self.head(name, stale=stale) if revision == self.BRANCH else self.store.resolve(name, revision)
        if commit is None:
            return _error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [{"rfilename": blob.path} for blob in self.store.blobs(name, commit)]
        private = self.store.visibility[name] == "private"
        return Answer.of(
            {"_id": name, "id": name, "modelId": name, "sha": commit, "private": private, "tags": [], "downloads": 0,
             "likes": 0, "gated": False, "disabled": False, "siblings": siblings}
        )  # fmt: skip

    def tree(self, _: Request, name: str, revision: str) -> Answer:
        entries = []
        for blob in self._blobs(name, revision):
            entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": blob.path}
            if blob.large:
                oid, size = blob.large
                entry |= {"size": size, "lfs": {"oid": oid, "size": size, "pointerSize": len(blob.content)}}
            entries.append(entry)
        return Answer.of(entries)

    def discussions(self, request: Request, name: str) -> Answer:
        repository = {"name": name, "type": "model"}
        found = [
            {"num": item.number, "title": item.title, "status": item.status, "isPullRequest": True,
             "createdAt": "2026-11-21T00:00:00.000Z", "author": {"name": "bot"}, "repo": repository}
            for item in self.pull_requests.get(name, [])
            if request.query.get("status") in (None, "all", item.status)
        ]  # fmt: skip
        return Answer.of({"count": len(found), "start": 0, "discussions": found})

    def tag(self, request: Request, name: str, revision: str) -> Answer:
        tag, commit = request.json()["tag"], self.store.resolve(name, revision)
        if commit is None:
            return _error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if tag in self.store.tags(name):
            return _error(409, "Tag reference exists already")
        self.store.set_reference(name, f"refs/tags/{tag}", commit)
        return Answer.of({})

    def batch(self, request: Request, name: str) -> Answer:
        del name
        objects = []
        for item in request.json()["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if not self.store.has_large(item["oid"]):
                entry["actions"] = {"upload": {"href": f"{self.endpoint}/objects/{item['oid']}"}}
            objects.append(entry)
        return Answer.of({"transfer": "basic", "objects": objects})

    def xet_token(self, _: Request, name: str, revision: str) -> Answer:
        del name, revision
        where, expires = f"local://{self.xet}", 2**32
        body = json.dumps({"casUrl": where, "exp": expires, "accessToken": "t"}).encode()
        headers = {"X-Xet-Cas-Url": where, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": str(expires)}
        return Answer(200, body, headers)

    def put(self, request: Request, oid: str) -> Answer:
        return Answer() if self.store.keep_large(oid, request.body) else _error(400, "wrong hash")

    def resolve(self, _: Request, name: str, revision: str, path: str) -> Answer:
        commit = self.store.resolve(name, revision)
        if commit is None:
            return _error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        blob = next((blob for blob in self.store.blobs(name, commit) if blob.path == path), None)
        if blob is None:
            return _error(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.oid}"'}
        if blob.large:
            headers |= {"X-Linked-ETag": f'"{blob.large[0]}"', "X-Linked-Size": str(blob.large[1])}
        return Answer(200, self.store.download(blob), headers)

    def _blobs(self, name: str, revision: str) -> list[Blob]:
        commit = self.store.resolve(name, revision)
        return self.store.blobs(name, commit) if commit else []


def _error(status: int, message: str, code: str | None = None) -> Answer:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer.of({"error": message}, status, **headers)
