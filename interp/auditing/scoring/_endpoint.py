"""Chat completions from a server that is trusted with the question and the key, and with nothing else.

- No redirect is followed: key and question go to the host that was named, and only its answers are read.
- An exchange takes at most a stated time in total, from the look-up of the name to the last byte.
- A reply has at most `REPLY_BYTES`; what is no completion raises `ValueError`, however it is nested.
"""

import json
import socket
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from threading import Thread
from typing import Any
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from interp.core.errors import InterpError
from interp.core.inputs import parse_object

REPLY_BYTES = 1_000_000


def complete(url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float) -> str:
    """What the assistant says in reply to a request.

    Args:
        url: Where completions are made.
        body: The request, sent as JSON.
        headers: Further headers, such as the one with the key.
        timeout: Seconds for the whole exchange.

    Raises:
        OSError: The server failed, redirected the request, or did not reply in time.
        HTTPException: The reply is not HTTP.
        ValueError: The reply is no completion, or too long.
    """
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    sockets: list[socket.socket] = []
    text: Future[str] = Future()

    def exchange() -> None:
        try:
            opener = build_opener(_NoRedirects, _Watched(sockets))
            with opener.open(request, timeout=timeout) as response:
                text.set_result(_content(response.read(REPLY_BYTES + 1)))
        except Exception as problem:
            text.set_exception(problem)

    Thread(target=exchange, daemon=True).start()
    try:
        return text.result(timeout)
    finally:
        for each in sockets:  # which ends the thread, whatever it still reads
            with each, suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _content(reply: bytes) -> str:
    if len(reply) > REPLY_BYTES:
        raise ValueError(f"the reply has more than {REPLY_BYTES:,} bytes")
    try:
        content = parse_object(reply.decode(), "the reply")["choices"][0]["message"]["content"]
    except (InterpError, LookupError, TypeError) as problem:
        raise ValueError(f"the reply is no chat completion ({problem})") from None
    if not isinstance(content, str):
        raise ValueError(f"the content of the reply is a {type(content).__name__}; expected a text")
    return content


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **options: Any) -> None:
        """None, which leaves the redirect an error."""


class _Watched(HTTPHandler, HTTPSHandler):
    """Keeps a second handle of each socket that is opened, by which another thread can shut it down."""

    def __init__(self, sockets: list[socket.socket]):
        super().__init__()
        self.sockets = sockets

    def do_open(self, http_class: Any, req: Request, **options: Any) -> HTTPResponse:
        def connection(*args: Any, **settings: Any) -> HTTPConnection:
            connection: HTTPConnection = http_class(*args, **settings)
            vars(connection)["_create_connection"] = self._connect
            return connection

        return super().do_open(connection, req, **options)

    def _connect(self, *args: Any, **options: Any) -> socket.socket:
        opened = socket.create_connection(*args, **options)
        self.sockets.append(opened.dup())
        return opened
