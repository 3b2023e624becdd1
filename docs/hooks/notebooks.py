"""Writes the executed notebooks of examples/ as pages of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter

EXAMPLES = Path(__file__).parents[2] / "examples"
# By default a page asks third parties for these; ours have no formulas, widgets or diagrams.
SILENT = dict.fromkeys(
    ["mathjax_url", "require_js_url", "jquery_url", "widget_renderer_url", "mermaid_js_url"], ""
)


def on_post_build(config: Any) -> None:
    """Called by mkdocs when the site is there."""
    folder = Path(config["site_dir"]) / "notebooks"
    folder.mkdir(exist_ok=True)
    exporter = HTMLExporter(**SILENT)
    for notebook in sorted(EXAMPLES.glob("*.ipynb")):
        page, _ = exporter.from_filename(str(notebook))
        (folder / f"{notebook.stem}.html").write_text(page, encoding="utf-8")
