"""Who may ask: every request passes here before a route sees it.

The Host header must be one of the hosts that were named, so that a foreign name which resolves to
this machine (DNS rebinding) gets nothing. What changes anything must come from a page of ours
(Origin, Sec-Fetch-Site), from a session, and with the session's CSRF token, which the routes check.
Answers carry a policy under which a page runs no script, style or frame but its own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlaif.audit.records import Reviewer
from rlaif.errors import RunError

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
OPEN = ("/login", "/static/")
"""What answers without a session."""

LARGEST = 2 * 1024 * 1024
"""Bytes of a request's body."""


def hosts(port: int, named: Iterable[str] = ()) -> dict[str, str]:
    """The Host headers that are answered: loopback, and those named, with the port and as given;
    and the scheme of each.

    Raises:
        RunError: a name is none.
    """
    found = {f"{name}:{port}": "http" for name in ("127.0.0.1", "localhost", "[::1]")}
    for name in named:
        scheme, _, bare = address(name).partition("://")
        names = (bare, f"{bare}:{port}") if _without_port(bare) else (bare,)
        found |= dict.fromkeys(names, scheme)
    return found


def address(name: str) -> str:
    """The address of an allowed host, without a path: by http, unless it is named with https://.

    Raises:
        RunError: it is no host.
    """
    given = name.strip().lower()
    scheme, _, bare = given.rpartition("://")
    bare = bare.removesuffix("/")
    if scheme not in ("", "http", "https") or not bare or set(bare) & set("/?#@ "):
        remedy = "--allow-host audit.example.org, or https://audit.example.org behind TLS"
        raise RunError(f"{name!r} names no host", remedy=remedy)
    return f"{scheme or 'http'}://{bare}"


def loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def csrf(session: str) -> str:
    """The token that goes with a session; it tells nothing about it."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware. `session_of` says whose session a token is; `cookie` is the cookie's name.

    What it finds is in `request.state`: `me`, the reviewer (None on open paths), and `session`.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Mapping[str, str], cookie: str,
        session_of: Callable[[str], Reviewer | None], refused: Callable[[], str],
    ) -> None:  # fmt: skip
        self.app, self.hosts, self.cookie = app, hosts, cookie
        self.session_of, self.refused = session_of, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope)
        if self.hosts.get(request.headers.get("host", "").lower()) == "https":
            scope["scheme"] = "https"  # a proxy speaks TLS for us: links and cookies are for that
        answer = self._foreign(request) or await self._stranger(request)
        begun = _Sending(send, request.url.path)
        try:
            await (answer or self.app)(scope, receive, begun)
        except Exception:
            log.exception("%s %s", request.method, request.url.path)
            if begun.started:
                raise
            await _no("That went wrong; the server's log says more.", 500)(scope, receive, begun)

    def _foreign(self, request: Request) -> Response | None:
        """A refusal of what does not come from a page of ours."""
        given = request.headers.getlist("host")
        if len(given) != 1 or given[0].lower() not in self.hosts:
            return _no("This host name is not served here; --allow-host names more.")
        if request.method in ("GET", "HEAD"):
            return None
        if request.method != "POST":
            return _no("Only GET and POST are answered.", 405)
        if not _ours(request.headers, given[0].lower()):
            return _no("The request comes from another page.")
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            return _no("The request is too long, or does not say how long it is.", 413)
        return None

    async def _stranger(self, request: Request) -> Response | None:
        """A refusal of those without a session, where one is needed."""
        session = _cookie(request.headers, self.cookie)
        me = await run_in_threadpool(self.session_of, session) if session else None
        request.state.me, request.state.session = me, session if me else ""
        if me or request.url.path.startswith(OPEN):
            return None
        if request.method == "GET":
            page = await run_in_threadpool(self.refused)
            return Response(page, 403, media_type="text/html")
        return _no("You are not logged in.")


def _ours(headers: Headers, host: str) -> bool:
    """Whether a page of this very host sent the request; browsers do not let pages forge this."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    return headers.get("origin", "").lower() in (f"http://{host}", f"https://{host}")


def _without_port(name: str) -> bool:
    return ":" not in name.rpartition("]")[2]


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _no(why: str, status: int = 403) -> Response:
    return PlainTextResponse(why + "\n", status)


class _Sending:
    """Sends an answer with the headers that protect it."""

    def __init__(self, send: Send, path: str) -> None:
        self.send, self.path, self.started = send, path, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            static = self.path.startswith("/static/") and message["status"] == 200
            headers["Cache-Control"] = "public, max-age=31536000" if static else "no-store"
        await self.send(message)
