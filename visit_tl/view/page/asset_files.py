"""The files of `assets/` that the page is made of, and the colours of both themes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from visit_tl.view.style import (
    FEATURE_COLOUR,
    FONT,
    PALETTES,
    entropy_colour,
    palette,
    rank_colour,
    role_colour,
    sign_colour,
)

SCRIPTS: Final = (
    *("data.js", "ways.js", "choose.js", "search.js", "fragment.js", "labels.js", "shapes.js"),
    *(
        "axes.js",
        "draw.js",
        "paint.js",
        "panel.js",
        "near.js",
        "controls.js",
        "finder.js",
        "mouse.js",
    ),
    "main.js",
)
"""Every file after those that it needs; the last one starts the page."""

_GRADIENTS: Final = "if (GRADIENTS"
"""How the lines begin that only pages of graphs with gradients contain."""

_SEGMENTS: Final = "if (SEGMENTS"
"""How the lines begin that only pages of graphs with segments contain."""

_REASONS: Final = "if (REASONS"
"""How the lines begin that only pages of graphs with reasons contain."""

_ROLES: Final = "if (ROLES"
"""How the lines begin that only pages of graphs with roles of heads contain."""

_FEATURES: Final = "if (FEATURES"
"""How the lines begin that only pages of graphs with features contain."""

_LENS: Final = "if (LENS"
"""How the lines begin that only pages of graphs read by another than the logit lens contain."""

_FRAMED: Final = "if (FRAMED"
"""How the lines begin that only pages in the explorer's frame contain."""

_WITHOUT_SEGMENTS: Final = {"lastSeen(": "positionOf(", "edgeWords(": "edgeTip("}
"""Calls of `segments.js`, and what pages of graphs without segments call instead."""

_SIGNED: Final[dict[str, dict[str, str]]] = {
    "light": {"plus": "#2166ac", "minus": "#b2182b"},
    "dark": {"plus": "#6fb1ea", "minus": "#f0806c"},
}
"""The colours of reversed attention, and of parts of scores, above and below zero."""

_RANKS: Final = 17
_GREYS: Final = 8
_PAGE_COLOURS: Final[dict[str, dict[str, str]]] = {
    "light": {
        "control": "#7d8792",
        "focus": "#0b6bcb",
        "fill": "#3483c4",
        "stream": "#aab2bb",
        "faintEdge": "rgba(130,140,150,0.13)",
        "faintNode": "#dde2e7",
        "way": "#1b1f24",
        "found": "#e0a800",
    },
    "dark": {
        "control": "#7d8996",
        "focus": "#79b8ff",
        "fill": "#5aa9e6",
        "stream": "#5b6570",
        "faintEdge": "rgba(150,160,170,0.12)",
        "faintNode": "#2a323a",
        "way": "#f2f5f8",
        "found": "#f0c239",
    },
}


def stylesheet(
    *,
    gradients: bool = False,
    segments: bool = False,
    reasons: bool = False,
    roles: Sequence[str] = (),
    features: bool = False,
    framed: bool = False,
) -> str:
    """The style sheet of the page, with the colours of both themes.

    Args:
        gradients: Whether the graph of the page has gradients or reversed attention.
        segments: Whether its run had segments.
        reasons: Whether it has reasons.
        roles: The roles of its heads.
        features: Whether it has features of SAEs.
        framed: Whether the page stands in the explorer's frame.
    """
    rules = [_variables(theme) for theme in PALETTES]
    whole = "\n".join((*rules, f"body{{font:14px/1.4 {_fonts()}}}", _read("page.css")))
    if segments:
        whole = "\n".join((whole, _read("segments.css")))
    if features:
        own = (f':root[data-theme="{t}"]{{--feature:{FEATURE_COLOUR[t]}}}' for t in PALETTES)
        whole = "\n".join((whole, *own, _read("features.css")))
    if framed:
        whole = "\n".join((whole, _read("frame.css")))
    if roles:
        each = [(i, name) for i, name in enumerate(roles)]
        own = (
            f':root[data-theme="{theme}"]{{'
            + ";".join(f"--role-{i}:{role_colour(name, i, theme)}" for i, name in each)
            + "}"
            for theme in PALETTES
        )
        whole = "\n".join((whole, *own, _read("roles.css")))
    if not (gradients or reasons):
        return whole
    signed = (
        f':root[data-theme="{theme}"]{{--plus:{own["plus"]};--minus:{own["minus"]}}}'
        for theme, own in _SIGNED.items()
    )
    more = (*["gradients.css"] * gradients, *["reasons.css"] * reasons)
    return "\n".join((whole, *signed, _read("signed.css"), *map(_read, more)))


def template() -> str:
    """The HTML of the page, with a placeholder `@@NAME@@` for each part."""
    return _read("page.html")


def script(
    *,
    gradients: bool = False,
    segments: bool = False,
    reasons: bool = False,
    roles: Sequence[str] = (),
    features: bool = False,
    framed: bool = False,
    lens: bool = False,
) -> str:
    """The script of the page: the files of `assets/` in order, comments left out.

    Args:
        gradients: Whether the graph of the page has gradients or reversed attention. The page of a
            graph without them has neither their file nor the lines of other files that call it.
        segments: Whether its run had segments; likewise.
        reasons: Whether it has reasons; likewise.
        roles: The roles of its heads; likewise.
        features: Whether it has features of SAEs; likewise.
        framed: Whether the page stands in the explorer's frame; likewise.
        lens: Whether another lens than the logit lens read it; likewise.
    """
    *names, main = SCRIPTS
    more = (
        *["gradients.js"] * gradients,
        *["segments.js"] * segments,
        *["reasons.js"] * reasons,
        *["signed.js"] * (gradients or reasons),
        *["roles.js"] * bool(roles),
        *["features.js"] * features,
        *["frame.js"] * framed,
        *["lens.js"] * lens,
    )
    whole = "\n".join(_read(n) for n in (*names, *more, main))
    if not segments:
        for ours, plain in _WITHOUT_SEGMENTS.items():
            whole = whole.replace(ours, plain)
    # Comments are for readers of the files; in the page they would be a fifth of the script.
    bare = re.sub(r"/\*\*.*?\*/\s*?", "", whole, flags=re.DOTALL)
    lines = (line.strip() for line in bare.splitlines())
    unused = (
        (_GRADIENTS, gradients),
        (_SEGMENTS, segments),
        (_REASONS, reasons),
        (_ROLES, bool(roles)),
        (_FEATURES, features),
        (_FRAMED, framed),
        (_LENS, lens),
    )
    left_out = ("//", *(line for line, used in unused if not used))
    kept = "\n".join(line for line in lines if line and not line.startswith(left_out))
    return f'"use strict";\n{kept}'


def colours(theme: str, roles: Sequence[str] = (), *, features: bool = False) -> dict[str, Any]:
    """The colours that the script draws with, those of roles and of features among them."""
    plain = palette(theme)
    ranks = [rank_colour(i / (_RANKS - 1), theme) for i in range(_RANKS)]
    return {
        "background": plain.background,
        "band": plain.band,
        "text": plain.text,
        "quiet": plain.quiet,
        "font": FONT,
        "ranks": ranks,
        "arcs": [f"{colour}a6" for colour in ranks],
        "greys": [_grey(i / (_GREYS - 1), theme) for i in range(_GREYS)],
        "positive": sign_colour(False, theme),
        "negative": sign_colour(True, theme),
        **({"feature": FEATURE_COLOUR[theme]} if features else {}),
        **({"roles": [role_colour(r, i, theme) for i, r in enumerate(roles)]} if roles else {}),
        **{
            name: _PAGE_COLOURS[theme][name]
            for name in ("stream", "faintEdge", "faintNode", "way", "found")
        },
    }


def _variables(theme: str) -> str:
    plain, own = palette(theme), _PAGE_COLOURS[theme]
    names = {
        "--background": plain.background,
        "--surface": plain.surface,
        "--band": plain.band,
        "--text": plain.text,
        "--quiet": plain.quiet,
        "--rule": plain.rule,
        "--control": own["control"],
        "--focus": own["focus"],
        "--fill": own["fill"],
        "--ranks": ",".join(rank_colour(i / 16, theme) for i in range(17)),
        "--greys": ",".join(_grey(i / 8, theme) for i in range(9)),
        "--positive": sign_colour(False, theme),
        "--negative": sign_colour(True, theme),
        "color-scheme": theme,
    }
    body = ";".join(f"{name}:{value}" for name, value in names.items())
    return f':root[data-theme="{theme}"]{{{body}}}'


def _grey(share: float, theme: str) -> str:
    # Lighter than in the figure: more labels lie over the edges.
    return entropy_colour(share, theme).replace(",0.8)", ",0.5)")


def _fonts() -> str:
    names = (font.strip() for font in FONT.split(","))
    return ",".join(f"'{name}'" if " " in name else name for name in names)


@cache
def _read(name: str) -> str:
    return (files("visit_tl.view.page") / "assets" / name).read_text(encoding="utf-8")
