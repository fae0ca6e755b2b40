"""A server of a test's own that speaks OpenAI's chat completions, and fails as it is told."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Answers one text after another, the last for ever: a string, a status, a number of seconds to wait, bytes as they
    are, or what a function does with the handler."""

    def __init__(self):
        self.says, self.seen = ["Yes"], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
                outer.seen.append((self.path, self.headers.get("Authorization"), self.body))
                said = outer.says.pop(0) if len(outer.says) > 1 else outer.says[0]
                if callable(said):
                    said(self)
                else:
                    self.say(said)

            def say(self, said):
                if isinstance(said, float):
                    time.sleep(said)
                self.send_response(said if isinstance(said, int) else 200)
                self.end_headers()
                text = {"choices": [{"message": {"role": "assistant", "content": said}}]}
                self.wfile.write(said if isinstance(said, bytes) else json.dumps(text).encode())

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def drip(handler):
    """A reply that never ends, a byte at a time: no single read of it takes long."""
    try:
        for part in [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 200]:
            handler.wfile.write(part)
            time.sleep(0.02)
    except OSError:
        pass


def redirecting(status, url):
    """A redirect to another server."""

    def elsewhere(handler):
        handler.send_response(status)
        handler.send_header("Location", url + "/chat/completions")
        handler.end_headers()

    return elsewhere


NESTED = b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG = json.dumps({"choices": [{"message": {"content": "Yes. " + "a" * 1_000_000}}]}).encode()
NO_TEXT = json.dumps({"choices": [{"message": {"content": {"text": "Yes"}}}]}).encode()
TWICE = b'{"choices": [{"message": {"content": "Yes", "content": "No"}}]}'
NO_COMPLETIONS = [NESTED, LONG, NO_TEXT, TWICE, b'{"choices": 3}', b'{"choices": []}', b"[]", b"\xff", b"not json"]
