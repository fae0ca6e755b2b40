"""`browse`: serve the pages of a book on this machine, until Ctrl-C."""

import errno
import socket
from collections.abc import Callable
from typing import Any

from interp.core.errors import InterpError
from interp.features import Book
from interp.models.hooked import HookedModel

PORT = 8765


def browse(
    book: Book,
    model: HookedModel | None = None,
    *,
    port: int = PORT,
    ready: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Serve the pages of a book at a port of this machine's loopback interface, until Ctrl-C.

    Args:
        book: The book.
        model: Its model, to see what fires on a text and to steer; without one these pages are missing.
        port: The port; 0 takes any that is free.
        ready: Called with the address, when the server listens.
        **options: `autoencoders`: where the book's autoencoders are, by name; by default where they were when they
            were scanned. `beside`: other books, to compare with. `links`: HTML files of other results, such as
            attribution graphs, that the pages link to.

    Raises:
        InterpError: The port is in use, what it takes to serve is not installed, the model is not the book's, an
            autoencoder is not in the book, or a link is no HTML file.

    Example:
        >>> from interp.features import Book
        >>> from interp.views import browse
        >>> browse(Book.open(tmp))
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is no feature book ...
    """
    try:
        import uvicorn

        from interp.views.browser.application import book_application
    except ImportError:
        raise InterpError(
            "the browser needs starlette and uvicorn; install them with: pip install 'interp[web]'"
        ) from None
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as problem:
        used = getattr(problem, "errno", 0) == errno.EADDRINUSE
        reason = "is in use" if used else f"can't be used ({problem})"
        raise InterpError(f"port {port} {reason}; give another one, or --port 0 for any that is free") from None
    with listening:
        port = listening.getsockname()[1]
        app = book_application(book, model, port=port, **options)
        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=1)
        ready(f"http://127.0.0.1:{port}/")
        uvicorn.Server(config).run([listening])
