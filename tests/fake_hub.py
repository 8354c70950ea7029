"""What of the Hugging Face hub a mirror is fetched from: a repository's commit, its list of files, the files."""

from __future__ import annotations

import hashlib
import json

from file_server import FileServer


class FakeHub:
    """Repositories of datasets on a file server."""

    def __init__(self, server: FileServer) -> None:
        self._server = server

    def publish(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        """Make these files the newest commit of a repository; those in test/ are large files, which have a sha256."""
        about = json.dumps({"id": repo, "sha": commit, "siblings": []}).encode()
        for revision in ("", "/revision/main", f"/revision/{commit}"):
            self._server.files[f"/api/datasets/{repo}{revision}"] = about
        tree = []
        for path, content in files.items():
            self._server.files[f"/datasets/{repo}/resolve/{commit}/{path}"] = content
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            if path.startswith("test/"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            tree.append(entry)
        self._server.files[f"/api/datasets/{repo}/tree/{commit}"] = json.dumps(tree).encode()
