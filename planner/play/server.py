"""The page and what it talks to. One WebSocket is one open page: when it closes, the page's episode goes."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from planner.play.clips import data_url, write_clip
from planner.play.guard import Guard, own_names
from planner.play.ratings import Ratings
from planner.play.runs import SHOWN, all_runs, served
from planner.play.saved import SavedError, listed
from planner.play.session import Session, sentence, what_failed
from planner.play.studio import Studio
from planner.play.worker import Worker
from tasks.commands import CommandError
from world_model.action_lines import ActionError
from world_model.picture import PictureError, uploaded_picture

PAGE = Path(__file__).parent / "page"
CLIPS = {"mp4": "video/mp4", "gif": "image/gif"}
MOST_TEXT = 16_384  # bytes of a message or rating
MOST_WAITING = 10_000  # messages to a page that does not take them
REPORT_POLICY = (  # a report holds its own pictures and style, and no script
    "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self' data:; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'"
)
MESSAGES = (CommandError, SavedError, PictureError, ActionError)


class Play:
    """The server's state: the studio, the worker, and the pages that are open."""

    def __init__(self, studio: Studio):
        self.studio, self.worker = studio, Worker()
        self.ratings = Ratings(studio.runs)
        self.pages: dict[str, Session] = {}
        self.decoding = asyncio.Semaphore(1)  # a picture takes up to a gigabyte while it is decoded

    def warm(self) -> None:
        """Open what the page is set to at first, so that its first chunk does not wait for it."""
        task = self.studio.cfg.task.name
        chosen = task, self.studio.first_memory, next(iter(self.studio.weights(task)))
        self.worker.submit(self, lambda job: ready(lambda: self.studio.stage(*chosen)), lambda place: None)

    # --- the page's own connection -------------------------------------------------------------

    async def connect(self, socket: WebSocket) -> None:
        """One open page, as long as it is open."""
        await socket.accept()
        if len(self.pages) >= self.studio.cfg.tabs:
            text = f"{len(self.pages)} pages are open, the most that tabs= allows; close one and reload."
            await socket.send_json({"type": "full", "text": text})
            return await socket.close(1013)
        loop, out = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

        def send(message: dict[str, Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(out.put_nowait, message)

        token, session = secrets.token_urlsafe(16), Session(self.studio, self.worker, send)
        self.pages[token] = session
        send({"type": "hello", "page": token})
        sending = asyncio.create_task(self._send(socket, out))
        code = None
        try:
            while out.qsize() <= MOST_WAITING:
                session.receive(parsed(await socket.receive_text()))
            code = 1008
        except KeyError:  # a binary message
            code = 1003
        except WebSocketDisconnect:
            pass
        finally:
            sending.cancel()
            del self.pages[token]
            session.close()
        if code is not None:
            await socket.close(code)

    async def _send(self, socket: WebSocket, out: asyncio.Queue[dict[str, Any]]) -> None:
        while True:
            message = await out.get()
            try:
                await socket.send_json(message)
            except (WebSocketDisconnect, RuntimeError):
                return  # the page went in the meantime

    def page(self, request: HTTPConnection) -> Session:
        """The open page that a request speaks for. Raises CommandError."""
        session = self.pages.get(request.path_params["page"])
        if session is None:
            raise CommandError("This page is not connected any more; reload it.")
        return session

    # --- requests ------------------------------------------------------------------------------

    async def choices(self, request: Request) -> Response:
        """What a new episode can be made of, and the saved ones."""
        cfg = self.studio.cfg
        return JSONResponse(
            {
                "tasks": await run_in_threadpool(self.studio.offered),
                "memories": self.studio.memories(),
                "fps": cfg.fps,
                "upload_megabytes": cfg.upload_megabytes,
                "saved": await run_in_threadpool(listed, self.studio.runs),
            }
        )

    async def picture(self, request: Request) -> Response:
        """Take a picture for the page's next episode; its body is the file."""
        session = self.page(request)
        limit = int(self.studio.cfg.upload_megabytes * 2**20)
        data = await body(request, limit, f"The picture has more than {limit / 2**20:g} MB; make it smaller.")
        size = self.studio.cfg.image_size
        async with self.decoding:
            picture, changes = await run_in_threadpool(uploaded_picture, data, size)
        session.upload = data
        return JSONResponse({"picture": data_url(picture), "changes": changes})

    async def clip(self, request: Request) -> Response:
        """The page's episode as a clip."""
        take, kind = self.page(request).playing(), request.path_params["kind"]
        if kind not in CLIPS or not take.steps:
            raise CommandError("There is no clip yet; imagine a chunk first.")

        def made() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                write_clip(Path(folder, f"clip.{kind}"), take, self.studio.cfg.fps)
                return Path(folder, f"clip.{kind}").read_bytes()

        name = f'attachment; filename="episode.{kind}"'
        return Response(await run_in_threadpool(made), 200, {"content-disposition": name}, CLIPS[kind])

    async def runs(self, request: Request) -> Response:
        """The runs of other commands."""
        return JSONResponse(await run_in_threadpool(all_runs, self.studio.runs))

    async def run_file(self, request: Request) -> Response:
        """A file of a run."""
        path = await run_in_threadpool(served, self.studio.runs, request.path_params["name"])
        if path is None:
            return JSONResponse({"error": "There is no such file to look at."}, 404)
        headers = {"content-security-policy": REPORT_POLICY} if path.suffix == ".html" else {}
        return FileResponse(path, media_type=SHOWN[path.suffix], headers=headers)

    async def pair(self, request: Request) -> Response:
        """Two clips to rate."""
        return JSONResponse(await run_in_threadpool(self.ratings.draw))

    async def rate(self, request: Request) -> Response:
        """Take the ratings of a pair."""
        told = parsed((await body(request, MOST_TEXT, "That is too long.")).decode(errors="replace"))
        token, scores, rater = str(told.get("token")), told.get("scores"), str(told.get("rater", ""))
        await run_in_threadpool(self.ratings.rate, token, scores, rater)
        return JSONResponse({"saved": True})  # and not how the clips were made: more are to be rated

    async def summary(self, request: Request) -> Response:
        """What all ratings come to."""
        return JSONResponse(await run_in_threadpool(self.ratings.summary))


def application(play: Play, host: str) -> Starlette:
    """The web application.

    Args:
        host: that the server listens on; requests to another name than :func:`own_names` are refused.
    """

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        play.warm()
        yield
        await run_in_threadpool(play.worker.close)

    async def index(request: Request) -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    routes = [
        Route("/", index),
        Mount("/page", StaticFiles(directory=PAGE)),
        WebSocketRoute("/connect", play.connect),
        Route("/choices", said(play.choices)),
        Route("/open/{page}/picture", said(play.picture), methods=["POST"]),
        Route("/open/{page}/clip.{kind}", said(play.clip)),
        Route("/runs", said(play.runs)),
        Route("/runs/{name:path}", said(play.run_file)),
        Route("/ratings/pair", said(play.pair), methods=["POST"]),
        Route("/ratings", said(play.summary)),
        Route("/ratings", said(play.rate), methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, *own_names(host))], lifespan=life)


def said(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The same, with whatever goes wrong as one sentence."""

    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except MESSAGES as error:
            return JSONResponse({"error": sentence(str(error))}, 400)
        except Exception as error:
            return JSONResponse({"error": what_failed(error)}, 500)

    return guarded


def parsed(text: str) -> dict[str, Any]:
    """A message of the page; empty if it is none."""
    try:
        message = json.loads(text) if len(text) <= MOST_TEXT else None
    except (ValueError, RecursionError):
        message = None
    return message if isinstance(message, dict) else {}


async def body(request: Request, limit: int, too_long: str) -> bytes:
    """What a request carries. Raises CommandError as soon as it is beyond the limit."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise CommandError(too_long)
    return bytes(data)


def ready(make: Callable[[], object]) -> None:
    """Do it now; what is wrong with it is said when somebody asks for it."""
    try:
        make()
    except (ValueError, RuntimeError, OSError):
        return
