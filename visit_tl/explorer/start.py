"""`explore`: open the explorer for a model, in a browser or in a notebook."""

from __future__ import annotations

import socket
import sys
import threading
import time
import webbrowser
from typing import Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Integer, Model, Name, Word
from visit_tl.errors import InputError
from visit_tl.explorer import limits
from visit_tl.explorer.session import Session

_HINT: Final = "pip install 'visit-tl[explore]'"


class Explorer:
    """A running server of the explorer, in a thread of its own.

    Args:
        session: What it is about.
        host: Where it listens.
        port: The port; 0 is any that is free.

    Raises:
        InputError: it cannot listen there, or the extra is not installed.
    """

    def __init__(self, session: Session, host: str, port: int) -> None:
        try:
            import uvicorn

            from visit_tl.explorer.server import Application
        except ImportError as error:
            raise InputError(f"the explorer needs {error.name}: {_HINT}") from error
        from visit_tl.explorer.guard import Guard
        from visit_tl.explorer.jobs import Jobs

        self.session = session
        self._socket = _listening(host, port)
        self._guard, self._jobs = Guard(host, limits.FLIGHT), Jobs()
        self._guard.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            Application(session, self._guard, self._jobs).app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        # Signals belong to the main thread, which waits in `wait`.
        self._thread = threading.Thread(target=self._serve, name="visit-tl server", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    @property
    def address(self) -> str:
        """A new address, which works once; it then gives the browser a cookie."""
        host = self._guard.host
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        shown = f"[{shown}]" if ":" in shown else shown
        return f"http://{shown}:{self._guard.port}/?token={self._guard.new_token()}"

    def wait(self) -> None:
        """Serve until Ctrl-C, then close."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """End the server; the stage that is being computed is finished first."""
        self._server.should_exit = True
        self._jobs.close()
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Explorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"the explorer of {self.session.views[0].name} at port {self._guard.port}"

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


@checked
def explore(
    model: Model,
    prompt: Word = "",
    *,
    other_model: Model = None,
    browser: Flag | None = None,
    host: Name = "127.0.0.1",
    port: Integer = 0,
) -> Any:
    """Open a page in which one types a prompt, sees its graph, changes the run and asks about it.

    In a notebook this is a widget and there is no server. Elsewhere a server is started on this
    machine, in a thread, and a browser is opened. The model's weights are never changed. Needs the
    extra `visit-tl[explore]`.

        vt.explore(model, "The capital of Japan is the city of").wait()  # in a script

    Args:
        model: As for `flow_graph`.
        prompt: The prompt that the page opens with.
        other_model: A second model, to compare with; such as the same with an adapter.
        browser: Open a browser with a server. None opens one, unless this is a notebook; False
            starts the server alone.
        host: Where the server listens. Others than this machine can reach it only if it is not a
            loopback address, and then there is a warning.
        port: The port; 0 is any that is free.

    Returns:
        In a notebook, the widget. Else an `Explorer` with `address` (which works once), `wait()`
        and `close()`.

    Raises:
        ModelError: a model cannot be taken apart.
        InputError: it cannot listen there, or the extra is not installed.
    """
    models = [model] if other_model is None else [model, other_model]
    names = [f"vt.load_model({one!r})" for one in models if isinstance(one, str)]
    recipes = names if len(names) == len(models) else ["model", "other_model"][: len(models)]
    session = Session(models, prompt, recipes)
    if browser is None and _in_notebook():
        try:
            from visit_tl.explorer.widget import widget
        except ImportError as error:
            raise InputError(f"the explorer needs {error.name}: {_HINT}") from error
        return widget(session)
    explorer = Explorer(session, host, port)
    from visit_tl.explorer.guard import is_loopback

    if not is_loopback(host):
        sys.stderr.write(
            f"visit-tl: the explorer listens on {host}, where other machines reach it. Whoever has "
            f"the address with its token can run prompts; what is sent is not encrypted.\n"
        )
    if browser is not False:
        webbrowser.open(explorer.address)
    return explorer


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: it cannot.
    """
    if not host:
        raise InputError("a host is a name or an address, such as '127.0.0.1'; got ''")
    if not 0 <= port < 2**16:
        raise InputError(f"a port is 0..65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(64)
    except (OSError, TypeError, ValueError) as error:
        made.close()
        raise InputError(f"the explorer cannot listen on {host}, port {port}: {error}") from error
    return made


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return running is not None and hasattr(running, "kernel")
