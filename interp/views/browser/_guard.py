"""What keeps other pages that a browser has open, and other machines, away from the local server.

A page of another site can send requests to this one, and a name that it owns can be made to point here (DNS
rebinding). So a request has to name this server as its host, and its origin, where it has one, has to be this server. A
request that changes something needs an origin, and the token that only this server's own pages hold (`application`).
"""

from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

LONGEST_FORM = 100_000  # bytes
# A linked page keeps its scripts, in an origin of its own: it can't read this server's pages or send forms.
LINKED_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuses requests of others, and adds headers to every answer.

    Args:
        app: The application.
        port: The port at which it is served on this machine.
    """

    def __init__(self, app: Any, port: int):
        self._app, self._hosts = app, [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        answer = PlainTextResponse(f"{refusal[1]}\n", refusal[0]) if refusal else self._app
        await answer(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host, origin, length = (headers.get(name, "") for name in ("host", "origin", "content-length"))
        reads = method in ("GET", "HEAD")
        if host not in self._hosts:
            return 421, f"this server is at {self._hosts[0]}, not at the host of this request"
        if origin != f"http://{host}" and (origin or not reads):
            return 403, "the request does not come from a page of this server"
        if not reads and (not length.isdecimal() or int(length) > LONGEST_FORM):
            return 413, f"expected a form of at most {LONGEST_FORM:,} bytes"
        return None
