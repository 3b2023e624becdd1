"""The palette: what must be told apart can be, with and without colour vision."""

from __future__ import annotations

import itertools
import math

import pytest

from tests.view.synthetic import realistic
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Node, TokenProb
from visit_tl.view.style import (
    PALETTES,
    edge_colour,
    entropy_colour,
    node_colour,
    palette,
    promoted_rank,
    rank_colour,
    rank_place,
)

# Machado, Oliveira, Fernandes (2009), severity 1.0, on linear RGB.
VISION = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(rgb):
    return [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)
    ]


def seen(rgb, vision):
    """CIE Lab of a colour as someone with this vision sees it."""
    flat = linear(rgb)
    flat = [
        min(max(sum(m * c for m, c in zip(row, flat, strict=True)), 0), 1) for row in VISION[vision]
    ]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(m * c for m, c in zip(row, flat, strict=True)) for row in to_xyz]
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (v / w for v, w in zip(xyz, (0.9505, 1, 1.089), strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def rgb(css):
    if css.startswith("#"):
        return tuple(int(css[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(int(v) for v in css[css.index("(") + 1 :].split(",")[:3])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", PALETTES)
def test_colours_that_mean_different_things_look_different(theme, vision):
    colours = palette(theme)
    ends = [rgb(rank_colour(place, theme)) for place in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for a, b in itertools.combinations(ends, 2):
        assert math.dist(seen(a, vision), seen(b, vision)) > 17
    # Light blue and light orange are 20 apart in hue and lightness even to tritanopes; the two
    # signs have to be told apart as thin lines, so they are further.
    assert math.dist(seen(colours.positive, vision), seen(colours.negative, vision)) > 25


@pytest.mark.parametrize("theme", PALETTES)
def test_text_has_the_contrast_of_wcag_aa(theme):
    def light(css):
        r, g, b = linear(rgb(css))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    colours = palette(theme)
    for ink in (colours.text, colours.quiet):
        for ground in (colours.background, colours.surface, colours.band):
            high, low = sorted((light(ink), light(ground)), reverse=True)
            assert (high + 0.05) / (low + 0.05) > 4.5


def test_the_scale_of_ranks_is_logarithmic_from_both_ends():
    assert rank_place(0, 50257) == 0
    assert rank_place(50256, 50257) == 1
    assert rank_place(50256 // 2, 50257) == pytest.approx(0.5)
    assert rank_place(9, 10**6) == pytest.approx(1 / 12, abs=1e-5)
    assert rank_place(10**6 - 10, 10**6) == pytest.approx(11 / 12, abs=1e-5)
    places = [rank_place(r, 100) for r in range(100)]
    assert places == sorted(places)
    assert rank_place(5, 1) == 0
    assert rank_place(10**9, 10) == 1


def test_a_subtracted_neuron_is_coloured_by_what_it_promotes():
    node = Node(
        id=NodeId("neuron", 0, neuron=3),
        top=(TokenProb("a", 0, 1.0),),
        bottom=(TokenProb("b", 1, 0.0),),
        entropy=0.0,
        norm=1.0,
        rank=99,
        prob=0.0,
        coefficient=-1.0,
    )
    assert promoted_rank(node, 100) == 0
    assert node_colour(node, 100, "light") == rank_colour(0.0, "light")


def test_edges_show_their_sign_or_the_entropy_of_their_source():
    graph = realistic()
    signed = [e for e in graph.edges if e.kind == "coefficient"]
    colours = {e.score < 0: edge_colour(e, graph[e.source], 1000, "light") for e in signed}
    assert colours[True] != colours[False]
    greys = [sum(rgb(entropy_colour(i / 4, "light"))) for i in range(5)]
    assert greys == sorted(greys)
    greys = [sum(rgb(entropy_colour(i / 4, "dark"))) for i in range(5)]
    assert greys == sorted(greys, reverse=True)
    assert entropy_colour(math.nan, "light") == entropy_colour(1.0, "light")


def test_an_unknown_theme_is_refused_by_name():
    with pytest.raises(InputError, match="'sepia' is no theme; the themes are light, dark"):
        palette("sepia")
