"""The explorer's own files: the document, the script and the style."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from visit_tl.view.page.asset_files import stylesheet
from visit_tl.view.style import PALETTES, rank_colour

SCRIPTS: Final = (
    *(
        "dom.js",
        "state.js",
        "address.js",
        "talk_http.js",
        "talk_widget.js",
        "prompt.js",
        "chips.js",
    ),
    *("picture.js", "states.js", "changes.js", "difference.js", "ask.js", "keep.js", "history.js"),
    "main.js",
)
"""Every file after those that it needs."""

_RANKS: Final = 16
"""Steps of the scale of ranks, as in `states.js`."""

_BAD: Final = {"light": "#a1260d", "dark": "#ff9d8a"}
"""The colour of what was refused."""


@cache
def script() -> str:
    """The files of `assets/` in order; they define `startExplorer` and start nothing."""
    whole = "\n".join(_read(name) for name in SCRIPTS)
    return f'"use strict";\n{re.sub(r"^// @ts-check$", "", whole, flags=re.MULTILINE)}'


def server_script() -> str:
    """The script of the document that the server gives."""
    return f"{script()}\nstartExplorer(document.getElementById('explorer'), talkByHttp());\n"


def widget_script() -> str:
    """The script as a module of anywidget."""
    start = (
        "export default { render({ model, el }) {\n"
        "  const root = document.createElement('div');\n  el.append(root);\n"
        "  return startExplorer(root, talkByWidget(model));\n} };\n"
    )
    return f"{script().removeprefix(chr(34) + 'use strict' + chr(34) + ';')}\n{start}"


@cache
def style() -> str:
    """The style, with the colours of both themes; everything is inside `.visit-explorer`."""
    colours = [line for line in stylesheet().splitlines() if line.startswith(":root[data-theme=")]
    own = [line.replace(":root[", ".visit-explorer[", 1) for line in colours]
    for theme in PALETTES:
        inside = f'.visit-explorer[data-theme="{theme}"]'
        own.append(f"{inside}{{--bad:{_BAD[theme]}}}")
        own += [
            f"{inside} .rank-{i}{{border-left-color:{rank_colour(i / _RANKS, theme)}}}"
            for i in range(_RANKS + 1)
        ]
    return "\n".join((*own, _read("explorer.css")))


def document() -> str:
    """The document that the server gives; it holds no text of a prompt."""
    return _read("explorer.html")


@cache
def _read(name: str) -> str:
    return (files("visit_tl.explorer") / "assets" / name).read_text(encoding="utf-8")
