"""A language model that another program runs, asked through any endpoint that speaks OpenAI's chat completions.

A server that fails, redirects or times out is asked again, after a pause that doubles. The key comes from an
environment variable that the caller names, goes only to the host of the endpoint, and is taken out of what comes back.
A reply of more than 1 MB is not read.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.inputs import parse_object

_REPLY_BYTES = 1_000_000
_RETRIED = {408, 409, 425, 429}  # and 500 to 599


@dataclass(frozen=True)
class ChatEndpoint(Displayed):
    """A model behind an endpoint.

    Args:
        url: Base URL, such as `http://localhost:8000/v1`.
        model: The model's name there.
        key: Environment variable that holds the API key, which is not stored; empty if none is needed.
        timeout: Seconds per request, from the look-up of the host to the last byte of its reply.
        retries: Attempts after the first.
        pause: Seconds before the first retry; it doubles with each.

    Raises:
        InterpError: The URL is none, or the environment variable is not set.

    Example:
        >>> from interp.data import ChatEndpoint
        >>> ChatEndpoint("http://localhost:8000/v1", "small").host
        'localhost:8000'
    """

    url: str
    model: str
    key: str = field(default="", metadata={"identifies": False})
    timeout: float = 60.0
    retries: int = 3
    pause: float = 1.0

    def __post_init__(self) -> None:
        host_of(self.url)
        if self.key and not os.environ.get(self.key, "").strip():
            raise InterpError(f"key: environment variable {self.key} is not set; set it, or leave key out")

    @property
    def host(self) -> str:
        """Where requests go; see `host_of`."""
        return host_of(self.url)

    def reply(self, question: str, accept: Callable[[str], bool] = bool, max_tokens: int | None = None) -> str:
        """What the model says to a user's message, at temperature 0.

        Args:
            question: The message.
            accept: Whether a reply is of the asked form; one that is not is asked for again.
            max_tokens: The most that it may say; None for the server's own limit.

        Returns:
            The first reply that is accepted, else the last one.

        Raises:
            InterpError: The server replied to no attempt. The message has the reason, without what the server sent.
        """
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": question}]}
        body |= {"temperature": 0} | ({"max_tokens": max_tokens} if max_tokens else {})
        secret = os.environ.get(self.key, "").strip() if self.key else ""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        last, reason = None, ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                last = _content(_posted(self.url.rstrip("/") + "/chat/completions", body, headers, self.timeout))
            except httpx.HTTPStatusError as problem:
                status = problem.response.status_code
                reason = f"HTTP {status}"
                if status < 500 and status not in _RETRIED:
                    break
            except TimeoutError:
                reason = f"none within {self.timeout:g} s"
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as problem:
                # Its message may quote what was sent, the key included.
                reason = str(problem) if type(problem) is ReplyError else type(problem).__name__
            else:
                last = last.replace(secret, "[key]") if secret else last
                if accept(last):
                    return last
        if last is None:
            raise InterpError(f"no reply from {self.model} at {self.host} ({reason}); check the endpoint and the key")
        return last


class ReplyError(ValueError):
    """A reply that is no chat completion. Its message quotes nothing of it."""


def host_of(endpoint: str) -> str:
    """The host of an endpoint's URL, and its port if named; after `http://` where others could read what it is sent.

    Raises where the URL is none, or holds a password.
    """
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or not endpoint.isprintable():
        expected = "a URL such as http://localhost:8000/v1, without a user name"
        raise InterpError(f"endpoint is {endpoint!r}; expected {expected}")
    is_read = parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1")
    return "http://" * is_read + parts.netloc.lower()


def _posted(url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float) -> bytes:
    """The reply to a request.

    Args:
        url: Where completions are made.
        body: The request, sent as JSON.
        headers: Further headers, such as the one with the key.
        timeout: Seconds for the whole exchange.

    Raises:
        httpx.HTTPError: The server failed, redirected the request, or did not reply in HTTP.
        TimeoutError: It did not reply in time.
        ReplyError: The reply is too long.
    """
    # The system's certificates; each read has no limit of its own, since the whole exchange has one.
    secure = url.startswith("https:") and ssl.create_default_context()
    options: dict[str, Any] = {"json": body, "headers": {"Accept-Encoding": "identity", **headers}}

    async def exchange() -> bytes:
        reply = b""
        client = httpx.AsyncClient(verify=secure, timeout=None)
        async with asyncio.timeout(timeout), client, client.stream("POST", url, **options) as response:
            response.raise_for_status()  # redirects are not followed
            async for part in response.aiter_raw():
                reply += part
                if len(reply) > _REPLY_BYTES:
                    raise ReplyError(f"a reply of more than {_REPLY_BYTES:,} bytes")
        return reply

    # In a thread of its own, since the caller's can have an event loop already, as in a notebook; the look-up of a
    # host, which can't be ended, goes on there.
    thread = ThreadPoolExecutor(1)
    try:
        return thread.submit(asyncio.run, exchange()).result(timeout)
    finally:
        thread.shutdown(wait=False)


def _content(reply: bytes) -> str:
    """What the assistant says in a reply. Raises where it is no completion."""
    try:
        content = parse_object(reply.decode(), "the reply")["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise ReplyError("a reply that is no chat completion") from None
    if not isinstance(content, str):
        raise ReplyError(f"a reply whose content is a {type(content).__name__}, not a text")
    return content.encode("utf-8", "replace").decode()  # half a surrogate pair could not be sent back
