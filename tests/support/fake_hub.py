"""What of the Hugging Face hub a mirror or dataset is fetched from: a repository's commit, its tree, the files."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import PurePosixPath

from tests.support.file_server import FileServer

COMMIT = "c" * 40


class FakeHub:
    """Repositories of datasets on a file server."""

    def __init__(self, server: FileServer) -> None:
        self._server = server
        self._uploaded: dict[str, bytes] = {}
        # by these its client tells a file that is not there from a hub that is not
        server.missing_headers["X-Error-Code"] = "EntryNotFound"

    def take_uploads(self, repo: str) -> None:
        """Let files be put into a repository that was published, as its client does with small ones: in the commit."""

        def prepare(posted: bytes) -> bytes:
            names = [file["path"] for file in json.loads(posted)["files"]]
            return json.dumps(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            ).encode()

        def commit(posted: bytes) -> bytes:
            for line in map(json.loads, posted.splitlines()):
                if line["key"] == "file":
                    self._uploaded[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.publish(repo, COMMIT, self._uploaded)
            url = f"{self._server.base}/datasets/{repo}/commit/{COMMIT}"
            return json.dumps({"success": True, "commitOid": COMMIT, "commitUrl": url}).encode()

        self._server.posts[f"/api/datasets/{repo}/preupload/main"] = prepare
        self._server.posts[f"/api/datasets/{repo}/commit/main"] = commit

    def publish(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        """Make these files the newest commit of a repository; those in folders are large files, which have a sha256."""
        about = json.dumps({"id": repo, "sha": commit, "siblings": []}).encode()
        for revision in ("", "/revision/main", f"/revision/{commit}"):
            self._server.files[f"/api/datasets/{repo}{revision}"] = about
        self._server.headers["X-Repo-Commit"] = commit
        # a folder's tree is answered with all that is below it, however deep
        trees: dict[str, dict[str, dict[str, object]]] = {"": {}}
        for path, content in files.items():
            for revision in ("main", commit):
                self._server.files[f"/datasets/{repo}/resolve/{revision}/{path}"] = content
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            folders = [folder.as_posix() for folder in PurePosixPath(path).parents][:-1]
            if folders:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            for folder in folders:
                trees.setdefault(f"/{folder}", {})[path] = entry
                trees[""][folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            trees[""][path] = entry
        for name, tree in trees.items():
            answer = json.dumps(list(tree.values())).encode()
            for revision in ("main", commit):
                self._server.files[f"/api/datasets/{repo}/tree/{revision}{name}"] = answer
