"""Who may talk to the page's server: the page itself.

The Host and the Origin of a request must be this server's, so that no other site that a browser shows can use
it. Nothing on the page comes from elsewhere.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class Guard:
    """Headers of every answer, and no request that another site's page makes.

    Args:
        known: names by which this server may be called.
        by_number: whether it may be called by any address in figures, too.
    """

    def __init__(self, app: ASGIApp, known: frozenset[str], by_number: bool):
        self.app, self.known, self.by_number = app, known, by_number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if refused := self.refused(scope):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await refused(scope, receive, send)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                more = {
                    b"content-security-policy": POLICY.encode(),
                    b"x-content-type-options": b"nosniff",
                    b"referrer-policy": b"no-referrer",
                    b"cross-origin-resource-policy": b"same-origin",
                    b"cache-control": b"no-cache",
                }
                message["headers"] = [*message["headers"], *((k, v) for k, v in more.items() if k not in own)]
            await send(message)

        return await self.app(scope, receive, sent)

    def refused(self, scope: Scope) -> Response | None:
        """The answer to a request that is not the page's own, else None."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        name = split(f"//{host}")[1]
        if name not in self.known and not (self.by_number and address(name)):
            return JSONResponse({"error": "This server goes by another name."}, 400)
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if (origin is None and changes) or (origin and split(origin)[0] != host):
            return JSONResponse({"error": "Requests of other sites are refused."}, 403)
        return None


def split(url: str) -> tuple[str, str]:
    """The server of a URL as it is written, and its name alone without brackets and port; empty for no URL."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:
        return "", ""


def address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a name is; None if it is one that has to be looked up."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def own_names(host: str) -> tuple[frozenset[str], bool]:
    """The names of a server that listens on ``host``, and whether any address in figures is one as well.

    Whoever owns another name can let it point here, and then a page of theirs would pass for this server's.
    """
    listens = address(host)
    if listens is None or not listens.is_unspecified:
        return frozenset({host.lower(), "localhost", "127.0.0.1"}), False
    machine = socket.gethostname().lower()
    short = machine.partition(".")[0]
    return frozenset({"localhost", machine, short, f"{short}.local", socket.getfqdn().lower()}), True
