"""Starting the review app: `serve` for a run, `application` for a ledger.

    rlaif audit serve runs/mine

Loopback by default. Beyond it the server starts only if the names are given under which it may be
asked. Whoever reviews has a link of his own that works once; the browser then keeps a session.
"""

from __future__ import annotations

import fcntl
import getpass
import logging
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from rlaif.audit import ADDRESS, where
from rlaif.audit.app import leading, reviewing
from rlaif.audit.app.pages import HERE, LOGIN, Templates, Visit
from rlaif.audit.app.reviewing import At
from rlaif.audit.app.security import Guard, address, hosts, loopback
from rlaif.audit.errors import AuditError, NotAnswered, NotFound, NotYours, Refused
from rlaif.audit.ledger import Ledger, opened
from rlaif.errors import RunError

log = logging.getLogger(__name__)

STATUS = {NotFound: 404, NotYours: 409, NotAnswered: 409, Refused: 409}


def serve(
    run: Path, *, db: str | None = None, host: str = "127.0.0.1", port: int = 8765,
    allow_host: tuple[str, ...] = (), browse: bool = False,
) -> None:  # fmt: skip
    """Serve the audits of a run until Ctrl-C; prints a link that logs its user in once.

    `db` is a `postgresql://` URL or a file, where the ledger is not the run's own. Port 0 takes a
    free one. `allow_host` names the hosts under which a browser may ask, as `audit.example.org`;
    with `https://` before it, links and cookies are for https.

    Raises:
        RunError: off-loopback without `allow_host`, a host that is none, the port is taken, or
            there is no audit.
    """
    if not loopback(host) and not allow_host:
        raise RunError(
            f"{host} can be reached by others, and no host name is allowed",
            remedy="--allow-host NAME, the name that reviewers type; or leave --host out",
        )
    place = db or _ledger(run)
    with _bound(host, port) as listening:
        port = listening.getsockname()[1]
        ledger = opened(place)
        try:
            app = application(ledger, port=port, allow_host=allow_host)
            beyond = allow_host and not loopback(host)
            site = address(allow_host[0] if beyond else f"127.0.0.1:{port}")
            name, token = _own_invitation(ledger)
            link = f"{site}/login?token={token}"
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, server_header=False, lifespan="off",
                timeout_graceful_shutdown=5, ws="none",
            )  # fmt: skip
            server = uvicorn.Server(config)
            with _ended_by_hand(server), _told(run, site):
                sys.stdout.write(
                    f"Review at {link}\nThe link works once, for {name}, a lead. "
                    "Ctrl-C ends the server.\n"
                )
                sys.stdout.flush()
                if browse:
                    webbrowser.open(link)
                server.run(sockets=[listening])
            sys.stdout.write("Ended. Every verdict that was saved is in the ledger.\n")
        finally:
            ledger.database.close()


@contextmanager
def _ended_by_hand(server: uvicorn.Server) -> Iterator[None]:
    """Ctrl-C ends the server from now on, also while it starts: as an exception it can be lost in a
    callback of Python's own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, server.handle_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def application(ledger: Ledger, *, port: int, allow_host: tuple[str, ...] = ()) -> FastAPI:
    """The app of one ledger, as ASGI."""
    app = FastAPI(title="rlaif audit", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.ledger, app.state.templates = ledger, Templates()
    own = APIRouter()
    own.add_api_route("/", reviewing.home, methods=["GET"])
    own.add_api_route("/logout", reviewing.log_out, methods=["POST"])
    own.add_api_route(LOGIN, _welcome, methods=["GET"])
    own.add_api_route(LOGIN, _log_in, methods=["POST"])
    for router in (own, reviewing.router, leading.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for error in (AuditError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _explained)
    app.state.cookie = f"rlaif-audit-{port}"
    app.add_middleware(
        Guard, hosts=hosts(port, allow_host), cookie=app.state.cookie,
        session_of=ledger.by_session, refused=lambda: _stranger(app.state.templates),
    )  # fmt: skip
    return app


# --- logging in -----------------------------------------------------------------------------------


def _welcome(at: At, token: str = "") -> Response:
    """The page behind a one-time link; opening it burns nothing, so that previews may."""
    if at.me and not token:
        return RedirectResponse("/", 303)
    return at.page("login", token=token)


def _log_in(at: At) -> Response:
    """Exchange a one-time token for a session."""
    session = at.ledger.redeem(at.fields.get("token", ""))
    if session is None:
        title = "This link has been used, or is too old"
        return at.message(title, "A lead can make a new one.", status=403)
    if at.me:  # the one before ends
        at.ledger.logout(at.request.state.session)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        at.request.app.state.cookie, session, max_age=30 * 24 * 3600, httponly=True,
        samesite="strict", secure=at.request.url.scheme == "https",
    )  # fmt: skip
    return answer


def _stranger(templates: Templates) -> str:
    return templates.render("login", token="")


def _own_invitation(ledger: Ledger) -> tuple[str, str]:
    """Who starts the server, and a one-time token: the lead of that name, made if there is none;
    never somebody else, in whose name he would judge and rule."""
    name, known = getpass.getuser(), {r.name: r for r in ledger.reviewers()}
    for own in (name, f"{name} (server)"):
        if own not in known:
            return own, ledger.invite(own, "lead")
        if known[own].active and known[own].role in leading.LEADS:
            return own, ledger.invite(own)
    remedy = f"let a lead in: rlaif audit status RUN --invite NAME --role lead; {name} is no lead"
    raise Refused(f"{name} is not let in here as a lead", remedy=remedy)


# --- errors ---------------------------------------------------------------------------------------


async def _explained(request: Request, error: Exception) -> Response:
    """An error as a page: what is wrong, and what to do."""
    title, line, status = "There is no such page", "", 404
    if isinstance(error, AuditError):
        title, line = error.what, error.remedy
        status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 400)
        if isinstance(error.__cause__, SQLAlchemyError):  # the page keeps the verdict, and retries
            log.error("%s", error)
            status = 503
    elif isinstance(error, HTTPException) and error.status_code != 404:
        title, line, status = str(error.detail), "", error.status_code
    state = request.state
    at = Visit(request, request.app.state.ledger, request.app.state.templates, state.me, {}, {})
    back = {"url": "/", "label": "All audits"}
    return at.message(title[:1].upper() + title[1:], line, status=status, back=back)


# --- the socket and the ledger --------------------------------------------------------------------


def _bound(host: str, port: int) -> socket.socket:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(kind, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # whoever is quicker than the server waits a moment
    except OSError as error:
        listening.close()
        raise RunError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            remedy="--port 0 takes a free one",
        ) from error
    return listening


@contextmanager
def _told(run: Path, address: str) -> Iterator[None]:
    """Beside the run stands where it is served, under a lock that lasts as long as we do."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context((run / ADDRESS).open("a", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"{address}\n")
            file.flush()
            stack.callback((run / ADDRESS).unlink, missing_ok=True)
        except OSError as error:  # another app serves it already, or we may not write there
            log.info("%s does not say that it is served here: %s", run, error)
        yield


def _ledger(run: Path) -> str | Path:
    place = where(run)
    if isinstance(place, Path) and not place.is_file():
        remedy = f"rlaif audit sample {run}"
        raise RunError("no sample has been drawn from this run", where=str(run), remedy=remedy)
    return place
