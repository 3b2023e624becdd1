"""Pages, opened in a browser."""

from __future__ import annotations

import pytest

from tests.view.browsing import Tab


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page from its text; at the end it must have been silent and have asked for nothing."""
    tabs = []

    def open_(text, size=(1280, 720), fragment=""):
        path = tmp_path / f"graph-{len(tabs)}.html"
        path.write_text(text, encoding="utf-8")
        tabs.append((Tab(browser, path, size, fragment), path))
        return tabs[-1][0]

    yield open_
    for tab, path in tabs:
        tab.silent(path)
        tab.page.close()
