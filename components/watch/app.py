"""The web application: pages, stored reports, events and metrics of what `evergrow.integrations.seen` reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from components.watch import view
from components.watch.access import STORED, Access, policy
from components.watch.fresh import Fresh
from components.watch.live import Live
from components.watch.metrics import exposition
from evergrow.errors import EvergrowError
from evergrow.integrations.seen import Seen, Snapshot
from evergrow.pages import shell

HERE = Path(__file__).parent
SECONDS = 3.0
"""How old what is shown may be."""
STYLE = (HERE / "watch.css").read_text(encoding="utf-8")
SCRIPT = (HERE / "script.html").read_text(encoding="utf-8")
# As they stand between their tags, to the character: that is what browsers hash.
POLICY = policy([f"\n{(shell.HERE / 'style.css').read_text(encoding='utf-8')}\n", STYLE], [SCRIPT])
Endpoint = Callable[[Request], Awaitable[Response]]


class Pages:
    """What is answered to whom asks.

    Args:
        read: takes a snapshot; slow, and never more than once in `seconds`.
        stored: a stored page of a model by folder and file; None if there is none.
        seconds: how old what is shown may be.
        ending: whether the server is about to stop.
    """

    def __init__(
        self,
        read: Callable[[], Snapshot],
        stored: Callable[[Seen, str, str], bytes | None],
        seconds: float = SECONDS,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.snapshot, self.stored = Fresh(read, seconds), stored
        self.live = Live(self._digests, ending)
        self._rendered: tuple[Snapshot | None, dict[str, Response]] = None, {}

    def routes(self) -> list[Route]:
        """All there is; of other methods than GET and HEAD, nothing."""
        pages: dict[str, Endpoint] = {
            "/": self.index,
            "/models/{name}": self.model,
            "/reports/{name}/{folder}/{file}": self.report,
            "/events": self.live.answer,
            "/metrics": self.metrics,
            "/healthz": self.healthz,
        }
        return [Route(path, page, methods=["GET"]) for path, page in pages.items()]

    async def index(self, _: Request) -> Response:
        """All models, one line each."""
        return await self._once("", await self.snapshot.aget(), _index)

    async def model(self, request: Request) -> Response:
        """One model."""
        now, name = await self.snapshot.aget(), request.path_params["name"]
        if name not in now.models:
            raise HTTPException(404)
        return await self._once(name, now, lambda snapshot: _model(snapshot, snapshot.models[name]))

    async def report(self, request: Request) -> Response:
        """A page that a pipeline wrote."""
        now, asked = await self.snapshot.aget(), request.path_params
        seen = now.models.get(asked["name"])
        if seen is None:
            raise HTTPException(404)
        try:
            found = await run_in_threadpool(self.stored, seen, asked["folder"], asked["file"])
        except EvergrowError as error:
            return PlainTextResponse(f"this report cannot be read: {error}\n", 502)
        if found is None:
            raise HTTPException(404)
        return HTMLResponse(found, headers={"Content-Security-Policy": STORED})

    async def metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(exposition(await self.snapshot.aget()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, _: Request) -> Response:
        """Whether this process answers; whether it can read is told on its pages, and no restart would help."""
        return PlainTextResponse("ok\n")

    async def absent(self, _: Request, error: Exception) -> Response:
        """What is not there, or may not be done."""
        if isinstance(error, HTTPException) and error.status_code != 404:
            return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
        now = await self.snapshot.aget()
        return _page("absent.html", now, [], 404, names=list(now.models), troubles=now.troubles)

    async def _once(self, name: str, now: Snapshot, render: Callable[[Snapshot], Response]) -> Response:
        """A page of a snapshot, rendered once however many ask for it."""
        if self._rendered[0] is not now:
            self._rendered = now, {}
        known = self._rendered[1]
        if name not in known:
            known[name] = await run_in_threadpool(render, now)
        return known[name]

    async def _digests(self) -> dict[str, str]:
        return (await self.snapshot.aget()).digests


def application(pages: Pages, token: str = "", hosts: Iterable[str] = ()) -> Starlette:
    """The ASGI application; `token` and `hosts` as in `components.watch.access.Access`."""
    access = Middleware(Access, token=token, hosts=tuple(hosts))
    return Starlette(routes=pages.routes(), middleware=[access], exception_handlers={HTTPException: pages.absent})


def _index(now: Snapshot) -> Response:
    lines = [view.facts(seen) for seen in now.models.values()]
    lines.sort(key=lambda one: (one.state[0] == "pass", one.state[0] != "fail", one.model))
    troubles = [*now.troubles, *(t for seen in now.models.values() for t in seen.troubles)]
    return _page("index.html", now, now.models, every=True, lines=lines, troubles=troubles)


def _model(now: Snapshot, seen: Seen) -> Response:
    values = view.model(seen)
    return _page("model.html", now, [seen.model], **values | {"troubles": (*now.troubles, *seen.troubles)})


def _page(
    template: str, now: Snapshot, models: Iterable[str], status: int = 200, every: bool = False, **values: Any
) -> Response:
    html = shell.page(
        HERE / template,
        at=now.at,
        every=every,
        digests={name: now.digests[name] for name in models},
        own_style=Markup(STYLE),  # noqa: S704 - files of ours
        script=Markup(f"<script>{SCRIPT}</script>"),  # noqa: S704
        **values,
    )
    return HTMLResponse(html, status, headers={"Content-Security-Policy": POLICY})
