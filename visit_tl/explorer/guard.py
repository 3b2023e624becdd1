"""Who may speak with the server: by Host, Origin and a cookie that a token is exchanged for."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import threading
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

DOCUMENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses what does not come from a page of this server.

    A token is good for one exchange: the address that holds it gives the browser a cookie, which no
    script can read and no other site can send.

    Args:
        host: Where the server listens.
        in_flight: The most requests that are answered at the same time.
    """

    def __init__(self, host: str, in_flight: int) -> None:
        self.host, self.port = host, 0
        self._secret = secrets.token_urlsafe(32)
        self._tokens: set[str] = set()
        self._lock = threading.Lock()
        self._most, self._flying = in_flight, 0

    @property
    def cookie(self) -> str:
        """The cookie's name; browsers do not keep the cookies of ports apart."""
        return f"visit_tl_{self.port}"

    def new_token(self) -> str:
        """A token for one exchange."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens.add(token)
        return token

    def exchange(self, request: Request) -> Response | None:
        """The cookie for a token in the address; None if the address holds none."""
        token = request.query_params.get("token")
        if token is None:
            return None
        with self._lock:
            # As bytes: texts are compared only where both are ASCII, and this one is anybody's.
            given = token.encode("utf-8", "replace")
            known = next(
                (one for one in self._tokens if hmac.compare_digest(one.encode(), given)), None
            )
            if known is not None:
                self._tokens.discard(known)
        if known is None and not self.knows(request):
            return refusal(403, "This address was used before, or is not one of this server. It "
                                "works once; visit-tl explore prints a new one.")  # fmt: skip
        answer = RedirectResponse("/", status_code=303, headers=HEADERS)
        answer.set_cookie(self.cookie, self._secret, httponly=True, samesite="strict", path="/")
        return answer

    def knows(self, request: Request) -> bool:
        """Whether the cookie came with a request."""
        given = request.cookies.get(self.cookie, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._secret.encode())

    def refuses(self, request: Request) -> Response | None:
        """The refusal of a request; None if it may pass, apart from its cookie."""
        name = request.headers.get("host", "")
        if name not in self._hosts(request):
            return refusal(421, "This server does not go by that name.")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{name}":
            return refusal(403, "This server answers its own pages only.")
        if request.method == "POST" and origin is None:
            return refusal(403, "A request must say from which page it comes.")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            first = request.url.path == "/" and request.method == "GET"
            if not (first and request.headers.get("sec-fetch-mode") == "navigate"):
                return refusal(403, "This server answers its own pages only.")
        return None

    def _hosts(self, request: Request) -> set[str]:
        names = {"127.0.0.1", "localhost", "[::1]"}
        if not is_loopback(self.host):
            # Asked for by name: the addresses at which others reach it are not known here, but a
            # name that somebody points at it (DNS rebinding) is no address.
            given = request.headers.get("host", "").rpartition(":")[0]
            names |= {self.host, *([given] if _is_address(given) else [])}
        return {f"{name}:{self.port}" for name in names}

    async def limited(self, answer: Callable[[], Any]) -> Response:
        """Answer, unless too many requests are being answered."""
        if self._flying >= self._most:
            return refusal(429, "Too many requests at the same time.")
        self._flying += 1
        try:
            return await answer()
        finally:
            self._flying -= 1


def refusal(status: int, words: str) -> Response:
    """A refusal in words."""
    return PlainTextResponse(f"visit_tl: {words}\n", status, headers=HEADERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
