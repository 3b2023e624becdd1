"""The session over HTTP: Starlette on uvicorn, on loopback unless asked otherwise.

    GET  /?token=...        a cookie for the token, then the document
    GET  /                  the document; /explorer.js and /explorer.css are its own
    GET  /picture/KEY       a kept graph as a page for a frame (?theme=dark)
    POST /api/about         what the session is about
    POST /api/tokens        a Request; its tokens
    POST /api/run           Runs, with the owner; a line of JSON for each event, as it happens
    POST /api/ask           a Question; likewise
    POST /api/keep          an Export; a file
    POST /api/open          a saved graph; the request that shows it

A body is JSON: `{"owner": ..., "asked": ...}` for run and ask, what is asked itself for the others
(`requests.py` has their forms). What is refused is `{"stage": "refused", "why": ...}`. Everything
but the exchange needs the cookie; see `guard.py`. A stream that is closed cancels its job.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from visit_tl.errors import GraphError, InputError, VisitError
from visit_tl.explorer import limits
from visit_tl.explorer.asset_files import document, server_script, style
from visit_tl.explorer.guard import DOCUMENT_POLICY, HEADERS, Guard, refusal
from visit_tl.explorer.jobs import BusyError, Event, Job, Jobs
from visit_tl.explorer.session import Session
from visit_tl.strict_json import parse_json

_OWNER: Final = re.compile(r"[0-9a-z]{8,32}(-ask)?")
_KEY: Final = re.compile(r"[0-9a-f]{24}(-heads|-effects)?")
_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class Application:
    """The routes, each answered by the session.

    Args:
        session: What is explored.
        guard: Who may ask.
        jobs: Where heavy work is done.
    """

    def __init__(self, session: Session, guard: Guard, jobs: Jobs) -> None:
        self.session, self.guard, self.jobs = session, guard, jobs
        get, post = ["GET"], ["POST"]
        self.app = Starlette(
            routes=[
                Route("/", self._guarded(self._document), methods=get),
                Route("/explorer.js", self._guarded(self._script), methods=get),
                Route("/explorer.css", self._guarded(self._style), methods=get),
                Route("/picture/{key}", self._guarded(self._picture), methods=get),
                Route("/api/{call}", self._guarded(self._call), methods=post),
            ]
        )

    def _guarded(self, answer: Any) -> Any:
        async def guarded(request: Request) -> Response:
            if (refused := self.guard.refuses(request)) is not None:
                return refused
            if request.url.path == "/" and (given := self.guard.exchange(request)) is not None:
                return given
            if not self.guard.knows(request):
                return refusal(403, "Open the address that visit-tl explore printed.")
            return await self.guard.limited(lambda: answer(request))

        return guarded

    # --- documents -----------------------------------------------------------------------------

    async def _document(self, request: Request) -> Response:
        headers = {**HEADERS, "Content-Security-Policy": DOCUMENT_POLICY}
        return Response(document(), media_type="text/html", headers=headers)

    async def _script(self, request: Request) -> Response:
        return Response(server_script(), media_type="text/javascript", headers=HEADERS)

    async def _style(self, request: Request) -> Response:
        return Response(style(), media_type="text/css", headers=HEADERS)

    async def _picture(self, request: Request) -> Response:
        key, theme = request.path_params["key"], request.query_params.get("theme", "light")
        if not _KEY.fullmatch(key) or theme not in ("light", "dark"):
            return refusal(404, "There is no such picture.")
        try:
            text = await run_in_threadpool(self.session.picture, key, theme)
        except GraphError as error:
            return refusal(410, str(error))
        scripts = " ".join(_hash(one) for one in _SCRIPT.findall(text))
        policy = (
            f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
            f"base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
            f"sandbox allow-scripts allow-downloads"
        )
        headers = {**HEADERS, "Content-Security-Policy": policy}
        return Response(text, media_type="text/html", headers=headers)

    # --- calls ---------------------------------------------------------------------------------

    async def _call(self, request: Request) -> Response:
        call = request.path_params["call"]
        most = limits.FILE if call == "open" else limits.BODY
        try:
            body = await _body(request, most)
            if body is None:
                return refusal(413, f"A request has at most {most} bytes.")
            if call == "open":
                return _json(await run_in_threadpool(self.session.open, body))
            data = parse_json(body.decode("utf-8")) if body else {}
            if call in ("run", "ask"):
                return self._stream(call, data)
            return await self._quick(call, data)
        except ClientDisconnect:
            return refusal(400, "The request was not finished.")
        except (VisitError, ValueError) as error:
            why = " ".join(str(error).split())
            return _json(
                {"stage": "refused", "why": why}, 503 if isinstance(error, BusyError) else 400
            )

    async def _quick(self, call: str, data: Any) -> Response:
        if call == "about":
            return _json(self.session.about())
        if call == "tokens":
            return _json(await run_in_threadpool(self.session.tokens, data))
        if call == "keep":
            name, kind, content = await run_in_threadpool(self.session.kept_file, data)
            headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
            return Response(content, media_type=kind, headers=headers)
        return refusal(404, "There is no such call.")

    def _stream(self, call: str, data: Any) -> Response:
        if not isinstance(data, dict) or set(data) != {"owner", "asked"}:
            raise InputError("run and ask take an owner and what is asked")
        owner = data["owner"]
        if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
            raise InputError("the owner is 8 to 32 letters and digits")
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def tell(event: Event | None) -> None:
            # The loop is closed where the server ended while a stage was computed.
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(owner, self.session.work(call, data["asked"]), tell)
        self.jobs.start(job)
        return StreamingResponse(_lines(job, events), media_type="application/x-ndjson",
                                 headers=HEADERS)  # fmt: skip


async def _lines(job: Job, events: asyncio.Queue[Event | None]) -> AsyncIterator[bytes]:
    """The events of a job as lines; a reader that goes away cancels it."""
    try:
        while (event := await events.get()) is not None:
            yield f"{json.dumps(event, allow_nan=False)}\n".encode()
    finally:
        job.cancel()


async def _body(request: Request, most: int) -> bytes | None:
    """The body; None as soon as it is larger than allowed."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def _json(data: Any, status: int = 200) -> Response:
    return JSONResponse(data, status, headers=HEADERS)


def _hash(script: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
