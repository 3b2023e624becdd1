"""PNG and PDF by kaleido, where it and a Chrome are; else what is missing is said."""

import sys
import types

import pytest

from tests.view.browsing import chromium
from tests.view.synthetic import hostile
from visit_tl import FileError
from visit_tl.view.image import image


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_figure_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    monkeypatch.setenv("BROWSER_PATH", chromium())
    graph = hostile()
    png = graph.save(tmp_path / "g.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    figure = graph.figure()
    assert (width, height) == (2 * figure.layout.width, 2 * figure.layout.height)
    assert image(graph, "pdf", layers=[0], theme="dark").startswith(b"%PDF-")


@pytest.fixture
def kaleido(monkeypatch):
    """A kaleido that does what it is told, and nothing else."""
    made, errors = types.ModuleType("kaleido"), types.ModuleType("kaleido.errors")
    errors.ChromeNotFoundError = type("ChromeNotFoundError", (Exception,), {})
    errors.KaleidoError = type("KaleidoError", (Exception,), {})
    made.errors = errors
    monkeypatch.setitem(sys.modules, "kaleido", made)
    monkeypatch.setitem(sys.modules, "kaleido.errors", errors)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.3.0")
    return made


def test_kaleido_without_a_chrome_is_said(kaleido, tmp_path):
    def no_chrome(*_, **__):
        raise kaleido.errors.ChromeNotFoundError

    kaleido.calc_fig_sync = no_chrome
    with pytest.raises(
        FileError, match=r"no Chrome or Chromium: install one .* BROWSER_PATH; \.svg"
    ):
        hostile().save(tmp_path / "g.png")
    assert list(tmp_path.iterdir()) == []


def test_what_kaleido_says_is_passed_on(kaleido, tmp_path):
    def fail(*_, **__):
        raise kaleido.errors.KaleidoError("the browser went away")

    kaleido.calc_fig_sync = fail
    with pytest.raises(FileError, match=r"could not draw the \.pdf: the browser went away; \.svg"):
        hostile().save(tmp_path / "g.pdf")


def test_kaleido_is_asked_for_the_size_of_the_figure_and_for_no_network(kaleido):
    asked = []

    def draw(figure, *, opts, kopts):
        asked.append((figure, opts, kopts))
        return b"drawn"

    kaleido.calc_fig_sync = draw
    graph = hostile()
    assert image(graph, "png", theme="dark") == image(graph, "pdf") == b"drawn"
    (figure, png, kopts), (_, pdf, _) = asked
    assert figure["layout"]["paper_bgcolor"] == "#0f1318"
    assert kopts == {"mathjax": False}
    layout = figure["layout"]
    size = {"width": layout["width"], "height": layout["height"]}
    assert png == {"format": "png", "scale": 2, **size} and pdf["scale"] == 1
