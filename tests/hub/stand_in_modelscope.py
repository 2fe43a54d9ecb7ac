"""The protocol of ModelScope, as far as publishing models needs it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.hub.git_store import pointer
from tests.hub.stand_in_hub import Answer, Request, StandInHub

REPOSITORY = r"(?P<name>[^/]+/[^/]+)"
MODEL = f"/api/v1/models/{REPOSITORY}"
MOST_ACTIONS = 2000
TEMPLATE = b"---\nlicense: Apache License 2.0\n---\n### This is a template.\n"


class StandInModelScope(StandInHub):
    """Answers modelscope-hub."""

    BRANCH = "master"
    ROUTES: ClassVar = (
        ("POST", "/api/v1/models", "create"),
        ("GET", MODEL, "info"),
        ("GET", f"/openapi/v1/models/{REPOSITORY}", "open_info"),
        ("GET", f"{MODEL}/repo/files", "files"),
        ("GET", f"{MODEL}/revisions", "revisions"),
        ("POST", f"{MODEL}/repo/tag", "tag"),
        ("GET", f"{MODEL}/repo", "download"),
        ("GET", "/api/v1/repos/internalAccelerationInfo", "acceleration"),
        ("POST", f"/api/v1/repos/models/{REPOSITORY}/info/lfs/objects/batch", "batch"),
        ("PUT", "/objects/(?P<oid>[0-9a-f]{64})", "put"),
        ("POST", f"/api/v1/repos/models/{REPOSITORY}/commit/(?P<revision>[^/]+)", "commit"),
    )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.licences: dict[str, str] = {}
        self.objects_at: str | None = None
        """Address of a store of large files elsewhere; by default here."""

    def refused(self, request: Request, groups: Mapping[str, str]) -> Answer | None:
        name = groups.get("name")
        if self.open_to_all(request, name):
            return None
        if request.method == "GET" and "authorization" not in request.headers:
            return _error(404, 10010205001, "model does not exist")
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _error(401, 10010103009, "AccessToken is invalid or expired")
        if name is not None and name not in self.store.names():
            return _error(404, 10010205001, "model does not exist")
        return None

    def create(self, request: Request) -> Answer:
        body = request.json()
        name = f"{body['Path']}/{body['Name']}"
        if body["Path"] not in self.namespaces:
            return _error(403, 403, f"no permission in {body['Path']}")
        if name in self.store.names():
            return _error(400, 10010101001, "the name is already in use")
        visibility = {1: "private", 3: "internal", 5: "public"}[body["Visibility"]]
        self.store.create(name, visibility, {"README.md": TEMPLATE, ".gitattributes": b"*.bin filter=lfs\n"})
        self.licences[name] = body["License"]
        return _data({"Id": 1, "Name": body["Name"], "Path": body["Path"]})

    def info(self, _: Request, name: str) -> Answer:
        path, short = name.split("/")
        number = {"private": 1, "internal": 3, "public": 5}[self.store.visibility[name]]
        return _data({"Id": 1, "Path": path, "Name": short, "Visibility": number, "License": self.licences.get(name)})

    def open_info(self, _: Request, name: str) -> Answer:
        private = self.store.visibility[name] == "private"
        return Answer.of({"success": True, "data": {"id": name, "private": private, "license": "apache-2.0"}})

    def files(self, request: Request, name: str, *, stale: bool = False) -> Answer:
        revision = request.query["Revision"]
        commit = self.head(name, stale=stale) if revision == self.BRANCH else self.store.resolve(name, revision)
        if commit is None:
            return _error(404, 10010205002, "revision does not exist")
        entries, folders = [], set()
        for blob in self.store.blobs(name, commit):
            parts = blob.path.split("/")
            folders |= {"/".join(parts[:end]) for end in range(1, len(parts))}
            content = self.store.download(blob)
            entries.append(
                {"Path": blob.path, "Name": parts[-1], "Type": "blob", "Size": len(content), "Revision": commit,
                 "Sha256": hashlib.sha256(content).hexdigest(), "IsLFS": blob.large is not None}
            )  # fmt: skip
        entries += [{"Path": path, "Name": path.split("/")[-1], "Type": "tree", "Size": 0} for path in sorted(folders)]
        return _data({"Files": entries[:3000], "LatestCommitter": {"Id": commit, "ShortId": commit[:8]}})

    def revisions(self, _: Request, name: str) -> Answer:
        tags = [{"Revision": tag, "CreatedAt": 0} for tag in self.store.tags(name)]
        return _data({"RevisionMap": {"Branches": [{"Revision": self.BRANCH, "CreatedAt": 0}], "Tags": tags}})

    def tag(self, request: Request, name: str) -> Answer:
        body = request.json()
        if body["TagName"] in self.store.tags(name):
            return _error(400, 10010205003, "the tag exists already")
        commit = self.store.resolve(name, body["Ref"])
        assert commit
        self.store.set_reference(name, f"refs/tags/{body['TagName']}", commit)
        return _data({})

    def download(self, request: Request, name: str) -> Answer:
        commit = self.store.resolve(name, request.query["Revision"])
        blobs = self.store.blobs(name, commit) if commit else []
        blob = next((blob for blob in blobs if blob.path == request.query["FilePath"]), None)
        return Answer(200, self.store.download(blob)) if blob else _error(404, 10010205004, "no such file")

    def acceleration(self, _: Request) -> Answer:
        return _data({"InternalRegionQueryAddress": ""})

    def batch(self, request: Request, name: str) -> Answer:
        del name
        missing = [item for item in request.json()["objects"] if not self.store.has_large(item["oid"])]
        place = self.objects_at or self.endpoint
        objects = [item | {"actions": {"upload": {"href": f"{place}/objects/{item['oid']}"}}} for item in missing]
        return _data({"objects": objects})

    def put(self, request: Request, oid: str) -> Answer:
        return _data({}) if self.store.keep_large(oid, request.body) else _error(400, 400, "wrong hash")

    def commit(self, request: Request, name: str, revision: str) -> Answer:
        body = request.json()
        if name.partition("/")[0] not in self.namespaces:
            return _error(403, 403, "no permission")
        if len(body["actions"]) > MOST_ACTIONS:
            return _error(422, 422, "too many actions")
        assert revision == self.BRANCH
        files, removed = {}, []
        for action in body["actions"]:
            path = action["path"]
            if action["action"] == "delete":
                removed.append(path)
            elif action["type"] == "lfs":
                if not self.store.has_large(action["sha256"]):
                    return _error(400, 400, "no such object")
                files[path] = pointer(action["sha256"], action["size"])
            else:
                files[path] = base64.b64decode(action["content"])
        self.store.commit(name, files, removed, body["commit_message"])
        return _data({})


def _data(data: Any) -> Answer:
    return Answer.of({"Code": 200, "Data": data, "Message": "success", "RequestId": "1", "Success": True})


def _error(status: int, code: int, message: str) -> Answer:
    return Answer.of({"Code": code, "Message": message, "RequestId": "1", "Success": False}, status)
