"""A small HTTP server that says what a test wants, for what a real API server says too seldom."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Answers a request: its path with the query, and what to write the answer with.
Answer = Callable[[str, BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            self.body = self.rfile.read(size)
            answer(self.path, self)

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - what http.server looks for

        def log_message(self, *_: Any) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join(10)


def say(handler: BaseHTTPRequestHandler, body: object, status: int = 200) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def kubeconfig(path: Path, address: str, **user: str) -> str:
    path.write_text(
        json.dumps(
            {
                "current-context": "work",
                "clusters": [{"name": "c", "cluster": {"server": address}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [
                    {"name": "work", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
                    {"name": "other", "context": {"cluster": "c", "user": "u"}},
                ],
            }
        )
    )
    return str(path)
