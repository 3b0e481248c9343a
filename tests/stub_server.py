"""An OpenAI-compatible server that does what a test says, also everything that real ones should not."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str = "ok", finish_reason: str = "stop", tokens: int = 3) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": finish_reason}],
        "usage": {"completion_tokens": tokens},
    }


def chat(content: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


@contextlib.contextmanager
def stub_server(answer: Callable[[dict[str, Any], int], Any]) -> Iterator[Any]:
    """A server on a free port; .url, .requests (bodies, in order of arrival) and .headers.

    `answer(body, i)` for the i-th request is a JSON value, (status, bytes), "hang" or "close".
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.requests.append(body)
                server.headers.append(self.headers)
                reply = answer(body, len(server.requests) - 1)
            if reply == "hang":
                time.sleep(1.0)  # longer than the tests' time-out
                reply = "close"
            if reply == "close":
                self.close_connection = True
                return
            status, data = reply if isinstance(reply, tuple) else (200, json.dumps(reply).encode())
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.headers = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
