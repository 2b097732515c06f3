"""A local stand-in for the hub, over HTTP: repositories by name, ranges, and what was asked for and sent."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants as hub_constants
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name, every path that was asked for, and the bytes of all bodies that were sent.

    ``ranges`` False ignores the Range header. ``busy`` is how many of the next requests for a part get a 503,
    ``short`` cuts the body of that many after half.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.errors: dict[str, tuple[int, str]] = {}
        self.served: list[str] = []
        self.ranges = True
        self.busy = 0
        self.short = 0
        self.sent = 0
        self.requests = 0
        self.tokens: set[str | None] = set()
        self.lock = Lock()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api = path.startswith("/api/models/")
        rest = path.removeprefix("/api/models") if api else path
        name = "/".join(rest.split("/")[1:3])
        if name in self.errors:
            status, code = self.errors[name]
            return status, {"X-Error-Code": code}, b"{}"
        if name not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files, parts = self.repositories[name], rest.split("/")[3:]
        if len(parts) > 1 and parts[1] not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if api and parts[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        if api:
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
            return 200, {}, json.dumps(info).encode()
        file = "/".join(parts[2:])
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        self.served.append(file)
        data = files[file]
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, data


@contextmanager
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Within this block huggingface_hub talks to a hub of our own, and caches below ``tmp_path``."""
    fake = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = fake.answer(urlsplit(self.path).path)
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            cut = 0
            with fake.lock:
                fake.requests += 1
                fake.tokens.add(self.headers.get("Authorization"))
                if part and status == 200 and fake.busy:
                    fake.busy -= 1
                    status, headers, body = 503, {}, b""
                elif part and status == 200 and fake.ranges:
                    start, stop = int(part[1]), min(int(part[2]) + 1, len(body))
                    headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
                    status, body = 206, body[start:stop]
                    if fake.short:
                        fake.short -= 1
                        cut = len(body) // 2
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                body = body[:cut] if cut else body
                try:
                    self.wfile.write(body)
                except OSError:  # the client had enough
                    return
                with fake.lock:
                    fake.sent += len(body)
                self.close_connection = bool(cut)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hub_constants, "ENDPOINT", address)
    monkeypatch.setattr(
        hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield fake
    server.shutdown()
    server.server_close()
