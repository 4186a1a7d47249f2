"""A W&B server on loopback, that notes what it is sent, and fails in the way that a test asks for."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "a" * 40  # a well-formed API key
Fault = Literal["none", "dead", "500", "mute", "slow", "nonsense", "gone after start", "mute after start"]


@dataclass
class WandbServer:
    """What a server was sent, and how it behaves."""

    fault: Fault = "none"
    url: str = ""
    upserts: list[dict[str, Any]] = field(default_factory=list)  #: variables of each upsertBucket
    queries: list[dict[str, Any]] = field(default_factory=list)  #: of each GraphQL request: query and variables
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  #: run id -> rows, in the order of arrival
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)  #: run id -> the newest summary
    ends: list[tuple[bool, int]] = field(default_factory=list)  #: of each start that ended: preempted?, and exit code
    preempting: set[str] = field(default_factory=set)  #: run ids that said so in their present start
    files: dict[str, bytes] = field(default_factory=dict)  #: name -> content of each file uploaded
    everything: list[bytes] = field(default_factory=list)  #: each body as it came, unpacked
    answers: dict[str, Any] = field(default_factory=dict)  #: operation name -> data, before those of a run
    released: threading.Event = field(default_factory=threading.Event)  #: set when the test is over

    @property
    def broken(self) -> bool:
        """Whether it has ceased to answer."""
        return "after start" in self.fault and bool(self.upserts)

    @property
    def environment(self) -> dict[str, str]:
        """What brings wandb here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def take_stream(self, run: str, body: dict[str, Any]) -> None:
        """Note a part of a run's file stream."""
        for name, part in (body.get("files") or {}).items():
            rows = [json.loads(row) for row in part["content"]]
            if name == "wandb-history.jsonl":
                self.history.setdefault(run, []).extend(rows)
            elif name == "wandb-summary.json":
                self.summary[run] = rows[-1]
        if body.get("preempting"):
            self.preempting.add(run)
        if body.get("complete"):
            self.ends.append((run in self.preempting, body["exitcode"]))
            self.preempting.discard(run)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the data of a GraphQL answer."""
        name, variables = operation(body), body.get("variables") or {}
        self.queries.append(body)
        if name in self.answers:
            found = self.answers[name]
            return dict(found(variables) if callable(found) else found)
        if name == "Viewer":
            teams: dict[str, Any] = {"edges": []}
            return {
                "viewer": {"id": "u", "entity": "team", "username": "u", "email": "", "flags": "{}", "teams": teams}
            }
        if name == "ArtifactType":  # of a table, which W&B keeps as an artifact
            return {"project": {"artifact": None}}
        if name == "CreateArtifact":
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if name == "UpsertBucket":
            self.upserts.append(variables)
            project = {"id": "p", "name": variables.get("project") or "p", "entity": {"id": "e", "name": "team"}}
            run = {"id": "r", "name": variables.get("name"), "displayName": variables.get("displayName")}
            return {"upsertBucket": {"bucket": {**run, "historyLineCount": 0, "project": project}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": one, "uploadUrl": f"{self.url}/upload/{one}"} for one in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}


def operation(body: dict[str, Any]) -> str:
    """Return the name of a GraphQL request's operation."""
    found = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
    return found[1] if found else ""


@contextmanager
def wandb_server(fault: Fault = "none") -> Iterator[WandbServer]:
    """Serve on a free port of loopback for the length of the block."""
    state = WandbServer(fault)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    if fault == "dead":
        server.socket.close()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()


def _handler(state: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            state.everything.append(body)
            if state.broken or state.fault == "mute":
                if "mute" in state.fault:
                    state.released.wait()
                self.close_connection = True
                return
            if state.fault == "slow":
                state.released.wait(1)
            if state.fault == "nonsense":
                self._send(200, {"data": {"upsertBucket": 7}})
            elif state.fault == "500":
                self._send(500, {"errors": [{"message": "out of order"}]})
            elif self.path.endswith("/graphql"):
                self._send(200, {"data": state.answer(json.loads(body))})
            elif self.path.endswith("/file_stream"):
                state.take_stream(self.path.split("/")[-2], json.loads(body))
                self._send(200, {"exitcode": None, "limits": {}})
            else:
                if self.path.startswith("/upload/"):
                    state.files[self.path.removeprefix("/upload/")] = body
                self._send(200, {})

        do_PUT = do_GET = do_POST  # noqa: N815

        def _send(self, code: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
