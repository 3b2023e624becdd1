"""The explorer inside a notebook: an anywidget with the same page, and no port."""

from __future__ import annotations

from typing import Any

import anywidget

from visit_tl.errors import VisitError
from visit_tl.explorer.asset_files import style, widget_script
from visit_tl.explorer.jobs import Event, Job, Jobs
from visit_tl.explorer.session import Session


class ExplorerWidget(anywidget.AnyWidget):
    """The page; its messages are answered by a session.

    A message is `{id, call, data}`, its answer `{id, event}`. Calls are those of `server.py`, and
    `picture` and `cancel`.
    """

    _esm = widget_script()
    _css = style()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session, self._jobs = session, Jobs()
        self.on_msg(self._hear)

    def close(self) -> None:
        """End what is computed, and the widget."""
        self._jobs.close(0.0)
        super().close()

    def _hear(self, _: Any, message: Any, buffers: Any) -> None:
        if not isinstance(message, dict) or not isinstance(message.get("id", 0), int):
            return
        number, call, data = message.get("id"), message.get("call"), message.get("data")
        try:
            if call == "cancel":
                self._jobs.cancel(str(message.get("owner")))
            elif call in ("run", "ask"):
                self._start(number, str(message.get("owner")), self.session.work(call, data))
            else:
                self._quick(number, call, data, buffers)
        except VisitError as error:
            self._tell(number, {"stage": "refused", "why": " ".join(str(error).split())})
            if call in ("run", "ask"):
                self._tell(number, {"stage": "end"})

    def _start(self, number: Any, owner: str, work: Any) -> None:
        def tell(event: Event | None) -> None:
            self._tell(number, {"stage": "end"} if event is None else event)

        self._jobs.start(Job(owner, work, tell))

    def _quick(self, number: Any, call: Any, data: Any, buffers: Any) -> None:
        if call == "about":
            self._tell(number, self.session.about())
        elif call == "tokens":
            self._tell(number, self.session.tokens(data))
        elif call == "open":
            self._tell(number, self.session.open(bytes(buffers[0]) if buffers else b""))
        elif call == "picture" and isinstance(data, dict):
            theme = "dark" if data.get("theme") == "dark" else "light"
            text = self.session.picture(str(data.get("key")), theme)
            self._tell(number, {"stage": "picture"}, text)
        elif call == "keep":
            name, kind, content = self.session.kept_file(data)
            self._tell(number, {"name": name, "kind": kind}, content)

    def _tell(self, number: Any, event: Event, content: bytes | None = None) -> None:
        self.send({"id": number, "event": event}, None if content is None else [content])


def widget(session: Session) -> ExplorerWidget:
    """The widget of a session."""
    return ExplorerWidget(session)
