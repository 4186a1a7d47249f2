"""An HTTP server on loopback that serves files by range and does, on request, what broken networks do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What one answer does wrong."""

    status: int | None = None  #: answer with this and no file
    drop_at: int | None = None  #: close the connection after this many bytes of the answer
    stall_at: int | None = None  #: send no more after this many bytes, until the server is closed
    length: int | None = None  #: the Content-Length to claim
    content: bytes | None = None  #: send these bytes instead
    ignore_range: bool = False
    retry_after: str | None = None
    no_length: bool = False
    after: Callable[[], None] | None = None  #: called when the bytes up to ``stall_at`` are sent


@dataclass
class Asked:
    """One request, as the server saw it."""

    path: str
    start: int | None  #: of its Range header
    sent: int = 0  #: bytes of the body
    if_range: str | None = None


@dataclass
class Served:
    """The files of a server, the faults of its next answers, and the requests that it saw."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)  #: one an answer, in order; then none
    always: Fault | None = None  #: of every answer
    asked: list[Asked] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def requests(self, path: str) -> list[Asked]:
        """The requests for one file."""
        return [asked for asked in self.asked if asked.path == path]


@contextmanager
def serving() -> Iterator[Served]:
    """Serve on a free port of loopback, until the block ends."""
    served = Served()

    class Handler(_Handler):
        state = served

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Served

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        asked = Asked(path, int(found[1]) if found else None, if_range=self.headers.get("If-Range"))
        self.state.asked.append(asked)
        fault = self.state.always or (self.state.faults.pop(0) if self.state.faults else Fault())
        content = self.state.files.get(path) if fault.content is None else fault.content
        if fault.status or content is None:
            return self._refuse(fault, fault.status or 404)
        etag = self.state.etags.get(path)
        start = 0 if asked.start is None or fault.ignore_range else asked.start
        if asked.if_range and asked.if_range != etag:
            start = 0
        if start >= len(content) and start:
            return self._refuse(fault, 416)
        self._head(fault, content, start, etag)
        return self._body(fault, content[start:], asked)

    def _refuse(self, fault: Fault, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if fault.retry_after:
            self.send_header("Retry-After", fault.retry_after)
        self.end_headers()

    def _head(self, fault: Fault, content: bytes, start: int, etag: str | None) -> None:
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault.no_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(content) - start if fault.length is None else fault.length))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()

    def _body(self, fault: Fault, body: bytes, asked: Asked) -> None:
        ends = [end for end in (fault.drop_at, fault.stall_at) if end is not None]
        for offset in range(0, min([*ends, len(body)]), 1 << 16):
            piece = body[offset : min([offset + (1 << 16), *ends])]
            try:
                self.wfile.write(piece)
            except OSError:
                return
            asked.sent += len(piece)
        if fault.after:
            fault.after()
        if fault.stall_at is not None:
            self.state.closing.wait()
        if ends or fault.length is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
