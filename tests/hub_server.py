"""A hub on loopback that answers as the real one does for single files: commit, checksum, size, ranges."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@cache
def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Hub:
    """What the server has and does.

    `files`: path inside its repository -> file. `breaks`: paths whose next download ends after so many bytes, and whose
    next attempt is then refused. `altered`: paths sent with one bit changed. `ranges`: (path, first byte) of every
    download sent.
    """

    files: dict[str, Path]
    breaks: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    ranges: list[tuple[str, int]] = field(default_factory=list)
    address: str = ""


@contextmanager
def hub_server(files: dict[str, Path]) -> Iterator[Hub]:
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            match = re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", self.path)
            path = match[1] if match else self.path.lstrip("/")
            if path not in hub.files:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if body and path in hub.refused:
                hub.refused.remove(path)
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = hub.files[path].read_bytes()
            first = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{checksum(hub.files[path])}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("ETag", f'"{checksum(hub.files[path])}"')
            self.end_headers()
            if not body:
                return
            hub.ranges.append((path, first))
            if path in hub.altered:
                content = content[:-1] + bytes([content[-1] ^ 1])
            last = hub.breaks.pop(path, len(content))
            self.wfile.write(content[first:last])
            if last < len(content):
                hub.refused.add(path)
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
