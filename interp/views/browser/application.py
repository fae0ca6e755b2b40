"""The local web application of a book: lists, pages of latents, labels, and a model to type to.

Addresses: `/` (the list), `/latent/A/N`, `/text`, `/steer/A/N`, `/compare`, `/link/N`; A is an autoencoder's number.
Forms are sent to the address of their page.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qsl

from pydantic import Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from interp.core.config import Config
from interp.core.errors import InterpError
from interp.features import Book, FeatureLabel, LabelConflict
from interp.models.hooked import HookedModel
from interp.sae.similarity import SHARED
from interp.views.browser._guard import LINKED_POLICY, Guard
from interp.views.browser._listing import ListView
from interp.views.browser._live_model import LiveModel
from interp.views.browser._pages import FILES, Addresses, Pages
from interp.views.browser.book_coders import BookCoders

_WORDS = ("text", "verdict", "note", "rater")


class _Fields(Config):
    """The fields of forms and addresses, and what they are where they are left out."""

    text: str = Field("", max_length=5000)
    verdict: str = "unsure"
    note: str = ""
    rater: str = ""
    seen: int = Field(0, ge=0, strict=False)
    times: float = Field(1.0, ge=-20, le=20, strict=False)
    new_tokens: int = Field(48, ge=1, le=256, strict=False)
    first: int = Field(0, ge=0, strict=False)
    second: int = Field(1, ge=0, strict=False)
    least: float = Field(SHARED, ge=0, le=1, strict=False)


def book_application(
    book: Book,
    model: HookedModel | None = None,
    *,
    port: int,
    autoencoders: Mapping[str, str] | None = None,
    beside: Sequence[Book] = (),
    links: Sequence[str | Path] = (),
) -> Guard:
    """The web application of a book, for an ASGI server at a port of this machine; arguments are those of `browse`.

    Example:
        >>> from interp.features import Book
        >>> from interp.views.browser.application import book_application
        >>> book_application(Book.open(tmp), port=8765)
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is no feature book ...
    """
    coders, to = BookCoders(book, autoencoders), Addresses(False, tuple(book.card.autoencoders))
    live = LiveModel(model, coders) if model else None
    pages = Pages(coders, to, [Path(x) for x in links], beside, bool(live), secrets.token_urlsafe(32))
    site = _Site(pages, live)
    pages.list_page(ListView())  # the first reader does not wait for templates and the database
    errors = {InterpError: site.refused, HTTPException: site.refused}
    return Guard(Starlette(routes=site.routes(), exception_handlers=errors), port)


async def _sent(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


def _reason(problem: Exception) -> tuple[int, str]:
    return (problem.status_code, problem.detail) if isinstance(problem, HTTPException) else (400, str(problem))


class _Site:
    """The answers to requests. Pages are rendered one at a time: a book's database serves one query at a time."""

    def __init__(self, pages: Pages, live: LiveModel | None):
        self._pages, self._live, self._one = pages, live, Lock()

    def routes(self) -> list[Route]:
        """The addresses."""
        latent = "{sae:int}/{latent:int}"
        return [
            Route("/", self._list),
            Route(f"/latent/{latent}", self._latent),
            Route(f"/latent/{latent}", self._label, methods=["POST"]),
            Route("/text", self._text),
            Route("/text", self._fired, methods=["POST"]),
            Route(f"/steer/{latent}", self._steer),
            Route(f"/steer/{latent}", self._replies, methods=["POST"]),
            Route("/compare", self._compare),
            Route("/link/{number:int}", self._link),
            Route("/{name}", self._asset),
        ]

    async def refused(self, request: Request, problem: Exception) -> Response:
        """The page of an error."""
        status, text = _reason(problem)
        return await self._page(lambda: self._pages.rendered("error", text=text), status)

    async def _page(self, render: Callable[[], str], status: int = 200) -> Response:
        def one() -> bytes:
            with self._one:
                return render().encode("utf-8", "replace")

        return HTMLResponse(await run_in_threadpool(one), status)

    async def _form(self, request: Request) -> _Fields:
        """A form. Raises 403 unless one of this server's pages sent it."""
        fields = await _sent(request)
        if not secrets.compare_digest(fields.pop("token", "").encode(), self._pages.token.encode()):
            raise HTTPException(403, "this form is of an earlier run of the server, or of another page; reload it")
        return _Fields.parse(fields, "form")

    def _key(self, request: Request) -> tuple[str, int]:
        names, (number, latent) = self._pages.to.names, (request.path_params[x] for x in ("sae", "latent"))
        if number >= len(names) or latent >= self._pages.book.card.autoencoders[names[number]].d_sae:
            raise HTTPException(404, "there is no such latent in this book")
        return names[number], latent

    async def _list(self, request: Request) -> Response:
        view = ListView.parse({key: x for key, x in request.query_params.items() if x}, "address")
        return await self._page(lambda: self._pages.list_page(view))

    async def _latent(self, request: Request, status: int = 200, **form: object) -> Response:
        sae, latent = self._key(request)
        return await self._page(lambda: next(self._pages.latent_pages(sae, range(latent, latent + 1), **form)), status)

    async def _label(self, request: Request) -> Response:
        (sae, latent), fields = self._key(request), await _sent(request)
        words = {name: fields.get(name, _Fields.model_fields[name].default) for name in _WORDS}
        try:
            form = await self._form(request)
            label = FeatureLabel.parse({"sae": sae, "latent": latent, **words}, "the label")
            await run_in_threadpool(self._pages.book.labels.add, [label], form.seen)
        except LabelConflict as problem:
            return await self._latent(request, 409, **words, newer=problem.newer)
        except (InterpError, HTTPException) as problem:  # what was typed stays in the form
            status, text = _reason(problem)
            return await self._latent(request, status, **words, problem=text)
        return RedirectResponse(f"{self._pages.to.latent(sae, latent)}#labels", 303)

    async def _text(self, request: Request) -> Response:
        return await self._page(self._pages.text_page)

    async def _fired(self, request: Request) -> Response:
        form = await self._form(request)
        fired = await run_in_threadpool(self._require_live().fired, form.text)
        return await self._page(lambda: self._pages.text_page(form.text, fired))

    async def _steer(self, request: Request) -> Response:
        key = self._key(request)
        return await self._page(lambda: self._pages.steer_page(*key))

    async def _replies(self, request: Request) -> Response:
        (sae, latent), form, live = self._key(request), await self._form(request), self._require_live()

        def begun() -> Iterator[object]:
            with self._one:
                value = form.times * self._pages.largest(sae, latent)
            return live.replies(form.text, sae, latent, value, form.new_tokens)

        replies = await run_in_threadpool(begun)  # it waits for pages, and may load an autoencoder
        return StreamingResponse((json.dumps(reply) + "\n" for reply in replies), media_type="application/x-ndjson")

    def _require_live(self) -> LiveModel:
        if self._live is None:
            raise InterpError("there is no model to type to; start interp browse with --model")
        return self._live

    async def _compare(self, request: Request) -> Response:
        chosen = _Fields.parse(dict(request.query_params), "address")
        return await self._page(lambda: self._pages.comparison_page(chosen.first, chosen.second, chosen.least))

    async def _link(self, request: Request) -> Response:
        if (number := request.path_params["number"]) >= len(self._pages.links):
            raise HTTPException(404, "there is no such link")
        headers = {"content-security-policy": LINKED_POLICY}
        return FileResponse(self._pages.links[number], headers=headers, media_type="text/html")

    async def _asset(self, request: Request) -> Response:
        if (name := request.path_params["name"]) not in FILES:
            raise HTTPException(404, "there is no such page")
        return Response(self._pages.asset(name), media_type=FILES[name])
