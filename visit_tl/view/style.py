"""One palette and one scale for width, in light and dark; safe for colour-blind readers.

Node colour runs from blue (the target is the top token) over grey to vermilion (the target is the
last token). Signed edges are bluish green and reddish purple, two hues of Okabe and Ito (2008).
tests/view/test_style.py measures the distances under simulated deuteranopia, protanopia and
tritanopia.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from visit_tl.errors import InputError
from visit_tl.graph.records import Edge, Node

Theme = Literal["light", "dark"]
Rgb = tuple[int, int, int]

FONT: Final = (
    "Inter, Segoe UI, Roboto, Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
)
FONT_SIZE: Final = 12
"""Labels, in px: nothing in a figure is set smaller."""

THINNEST: Final = 1.2
"""Width in px of an edge whose score is zero. Plotly draws edges of 1 px or less only in part."""


@dataclass(frozen=True)
class Palette:
    """The colours of one theme.

    Attributes:
        background: Of the page and the figure.
        surface: Of hovers and boxes.
        band: Behind every other block.
        text: Main text.
        quiet: Headings of columns and notes.
        rule: Thin lines.
        ranks: Anchors of the rank scale, evenly spaced, from rank 0 to rank d_vocab - 1.
        certain: A summing or flow edge from a source of entropy 0.
        vague: The same from a source of the largest entropy, log(d_vocab).
        positive: A coefficient edge with a positive score.
        negative: A coefficient edge with a negative score.
        neutral: A node without a readable rank.
    """

    background: str
    surface: str
    band: str
    text: str
    quiet: str
    rule: str
    ranks: tuple[Rgb, ...]
    certain: Rgb
    vague: Rgb
    positive: Rgb
    negative: Rgb
    neutral: Rgb


PALETTES: Final[dict[str, Palette]] = {
    "light": Palette(
        background="#ffffff",
        surface="#ffffff",
        band="#f6f7f9",
        text="#1b1f24",
        quiet="#59636e",
        rule="#d0d7de",
        ranks=((4, 58, 122), (52, 131, 196), (176, 182, 190), (230, 138, 46), (160, 50, 6)),
        certain=(70, 76, 84),
        vague=(214, 219, 225),
        positive=(0, 158, 115),
        negative=(150, 30, 106),
        neutral=(140, 149, 159),
    ),
    "dark": Palette(
        background="#0f1318",
        surface="#1c2229",
        band="#151a20",
        text="#e8edf2",
        quiet="#a4afba",
        rule="#37414c",
        ranks=((138, 201, 255), (52, 132, 205), (96, 104, 114), (208, 112, 30), (255, 178, 102)),
        certain=(196, 204, 213),
        vague=(56, 65, 75),
        positive=(40, 200, 150),
        negative=(196, 84, 160),
        neutral=(122, 131, 141),
    ),
}


CLASS_COLOURS: Final[dict[str, tuple[str, ...]]] = {
    "light": ("#d55e00", "#009e73", "#a3288a", "#e6b800", "#000000", "#e78ac3", "#7a4a1e"),
    "dark": ("#ff8a3c", "#2fd3a0", "#f08ac8", "#f0e442", "#ffffff", "#b39dff", "#c99a6b"),
}
"""Of classes of heads; see `figures/head_map.py`."""

FEATURE_COLOUR: Final = {"light": "#7a3fb8", "dark": "#c79bff"}
"""The rim of features of SAEs and transcoders, of their error and of their bias."""

_ROLES: Final = ("previous", "duplicate", "induction", "retrieval", "copying", "successor")
_IDLE: Final = {"sink": 0.45, "sink-free": 0.75}
"""Roles of heads that look at the first token or not: greys, by how near to the background."""


def role_colour(role: str, number: int, theme: str) -> str:
    """The colour of a role of heads.

    Args:
        role: Its name. Names that `studies.roles` does not give have colours too.
        number: Its place among the roles of a graph.
        theme: `light` or `dark`.
    """
    colours = palette(theme)
    if role in _IDLE:
        return _css(_mix(colours.certain, colours.vague, _IDLE[role]))
    known = CLASS_COLOURS[theme]
    at = _ROLES.index(role) if role in _ROLES else len(_ROLES) + number
    return known[at % len(known)]


def palette(theme: str) -> Palette:
    """The colours of a theme.

    Raises:
        InputError: there is no such theme.
    """
    if theme not in PALETTES:
        raise InputError(f"{theme!r} is no theme; the themes are {', '.join(PALETTES)}")
    return PALETTES[theme]


def ground(colours: Palette) -> dict[str, Any]:
    """The layout that all Plotly figures of a theme share: backgrounds, fonts and hovers."""
    font = {"family": FONT, "size": FONT_SIZE, "color": colours.text}
    return {
        # An empty template keeps the caller's default template out of the figure.
        "template": {},
        "paper_bgcolor": colours.background,
        "plot_bgcolor": colours.background,
        "font": font,
        "hoverlabel": {
            "bgcolor": colours.surface,
            "bordercolor": colours.quiet,
            "font": font,
            "align": "left",
        },
    }


def promoted_rank(node: Node, d_vocab: int) -> int:
    """The target's rank among what a node promotes: counted from the bottom if it is subtracted.

    A vector of zeros promotes and suppresses nothing: it has the rank in the middle.
    """
    if node.is_zero:
        return d_vocab // 2
    return d_vocab - 1 - node.rank if node.negative else node.rank


def rank_place(rank: int, d_vocab: int) -> float:
    """The place of a rank on the scale, from 0 (rank 0) to 1 (rank d_vocab - 1).

    Logarithmic from both ends, log(rank + 1) - log(d_vocab - rank): the last rank of all, where a
    negative head puts the target, is as far from an ordinary rank as the first one is.
    """
    if d_vocab < 2:
        return 0.0
    rank = min(max(rank, 0), d_vocab - 1)
    return 0.5 + 0.5 * (math.log(rank + 1) - math.log(d_vocab - rank)) / math.log(d_vocab)


def rank_colour(place: float, theme: str) -> str:
    """The colour at a place of the rank scale, as `#rrggbb`."""
    ranks = palette(theme).ranks
    at = min(max(place, 0.0), 1.0) * (len(ranks) - 1)
    low = min(int(at), len(ranks) - 2)
    return _css(_mix(ranks[low], ranks[low + 1], at - low))


def node_colour(node: Node, d_vocab: int, theme: str) -> str:
    """The colour of a node: the target's rank among what it promotes."""
    return rank_colour(rank_place(promoted_rank(node, d_vocab), d_vocab), theme)


def edge_colour(edge: Edge, source: Node, d_vocab: int, theme: str) -> str:
    """The colour of an edge: its sign, or the entropy of its source.

    A sum or flow edge is nearer to the background the higher the entropy of its source is (paper,
    section 5.3).
    """
    colours = palette(theme)
    if edge.kind == "coefficient":
        return _css(colours.negative if edge.score < 0 else colours.positive, 0.55)
    return entropy_colour(source.entropy / math.log(max(d_vocab, 2)), theme)


def entropy_colour(share: float, theme: str) -> str:
    """The grey of an entropy, given as a share of the largest one, log(d_vocab)."""
    colours = palette(theme)
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 1.0
    return _css(_mix(colours.certain, colours.vague, share), 0.8)


def sign_colour(negative: bool, theme: str) -> str:
    """The colour of a coefficient edge with this sign, as in the figure."""
    colours = palette(theme)
    return _css(colours.negative if negative else colours.positive, 0.55)


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _css(colour: Rgb, opacity: float | None = None) -> str:
    if opacity is None:
        return "#" + "".join(f"{part:02x}" for part in colour)
    return f"rgba({','.join(map(str, colour))},{opacity:g})"
