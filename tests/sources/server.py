"""A local HTTP server whose answers are scripted per path, so that tests can make downloads fail."""

import hashlib
import re
import socket
import ssl
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One scripted answer. Without arguments, it is the requested range of the file, as a correct server sends it.

    `cut_after` breaks the connection after so many bytes of the body, `stall_after` only stops sending;
    `length` is the Content-Length claimed (None: none); `extra` follows a body of the right length.
    """

    status: int | None = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    stall_after: int | None = None
    length: int | str | None = "right"
    extra: bytes = b""
    ranges: bool = True
    validators: bool = True


@dataclass(frozen=True)
class Request:
    """A request of a client."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


class FileServer:
    """Serves `files` (path without the leading slash -> bytes); `script` holds the next answers per path.

    The last answer of a script is repeated only if it is `forever`; after a script the file is served well.
    """

    def __init__(self, files: dict[str, bytes] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.files = dict(files or {})
        self.scripts: dict[str, list[Reply]] = {}
        self.forever: dict[str, Reply] = {}
        self.requests: list[Request] = []
        self.faults: list[str] = []
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def script(self, path: str, *replies: Reply, forever: Reply | None = None) -> None:
        self.scripts[path] = list(replies)
        if forever is not None:
            self.forever[path] = forever

    def reply_for(self, path: str) -> Reply:
        if self.scripts.get(path):
            return self.scripts[path].pop(0)
        return self.forever.get(path, Reply())

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.port}/{path}"

    def ranges(self, path: str) -> list[str | None]:
        return [request.range for request in self.requests if request.path == path]

    def __enter__(self) -> "FileServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    owner: FileServer
    daemon_threads = False  # so that server_close waits for the answers under way, and no socket is left open
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Quietly."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        owner = self.server.owner
        owner.requests.append(Request(self.command, path, dict(self.headers.items())))
        self.close_connection = True
        reply = owner.reply_for(path)
        body = reply.body if reply.body is not None else owner.files.get(path)
        if body is None:
            status, headers, body = reply.status or 404, {}, b"not found"
        else:
            status, headers, body = self._slice(reply, body)
        self.send_response(status)
        length = len(body) if reply.length == "right" else reply.length
        headers |= {} if length is None else {"Content-Length": str(length)}
        headers |= reply.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(reply, body + reply.extra)

    def _slice(self, reply: Reply, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and bytes for a file, honouring Range and If-Range."""
        headers = {"Content-Type": "application/octet-stream"}
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if reply.validators:
            headers |= {"ETag": etag, "Accept-Ranges": "bytes"}
        if reply.status is not None:
            return reply.status, headers, body
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if reply.ranges else None
        if asked is None or self.headers.get("If-Range", etag) != etag:
            return 200, headers, body
        start, stop = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1) + 1
        if start >= len(body):
            return 416, headers | {"Content-Range": f"bytes */{len(body)}"}, b""
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        return 206, headers, body[start:stop]

    def _send(self, reply: Reply, body: bytes) -> None:
        if reply.stall_after is not None:
            self.wfile.write(body[: reply.stall_after])
            self.wfile.flush()
            self.server.owner.closing.wait(5)
        elif reply.cut_after is not None:
            self.wfile.write(body[: reply.cut_after])
            self.wfile.flush()
            self._hang_up()
        else:
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server context with a self-signed certificate, made by the openssl executable."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
