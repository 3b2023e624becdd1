"""A result with figures is written by the suffix of its path: figures, a table or text.

`.html` is one page that needs nothing else: plotly.js is in it, and a content security policy
forbids all requests. `.svg`, `.png` and `.pdf` are drawn by kaleido.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from visit_tl import files
from visit_tl.escaping import carried, for_html
from visit_tl.graph.descriptions import readable
from visit_tl.view.style import FONT, palette

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SUFFIXES: Final = (".html", ".svg", ".png", ".pdf", ".csv", ".txt")

_DRAWN: Final = (".svg", ".png", ".pdf")
_MARKS: Final = {
    **files.MARKS,
    ".csv": rb"matrix,layer,position,token,reads,|head,layer,norm,forward_norm|head,roles[,\n]"
    rb"|edge,source,target,input,score,|direction,singular_value,",
    ".txt": rb'model {7}[^\n]*\nprompt {6}"[^\n]*\n(?:loss|metric) |roles of \d+ x \d+ heads of '
    rb"|[^\n]*(?:: composition of heads|, [qkv]-composition \d)",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: What it is about.
        figures: Its figures, one under the other.
        text: The same as text, folded away under them.
    """

    heading: str
    figures: Sequence[go.Figure]
    text: str


@dataclass(frozen=True)
class Content:
    """What can be written of a result; each part is made only if it is.

    Attributes:
        figure: The picture.
        text: The text.
        table: The table; its lists are written as JSON.
        sections: The parts of the page.
        title: The title of the page.
        theme: `light` or `dark`.
    """

    figure: Callable[[], go.Figure]
    text: Callable[[], str]
    table: Callable[[], pd.DataFrame]
    sections: Callable[[], list[Section]]
    title: str
    theme: str


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """Check, before the work is done, that `save` can write to a path; return it as a Path.

    Raises:
        FileError: as `files.check`, or kaleido is needed and not installed.
    """
    path = files.check(path, SUFFIXES, overwrite=overwrite, marks=_MARKS)
    if path.suffix.lower() in _DRAWN:
        from visit_tl.view.kaleido_image import require_kaleido

        require_kaleido("SVG, PNG and PDF", free=".html")
    return path


def save(path: str | Path, content: Content, *, overwrite: bool = False) -> Path:
    """Write a result in the format that the suffix of the path names; return the path.

    Args:
        path: Where; the folder must exist.
        content: What there is to write.
        overwrite: Replace an existing file even if visit_tl did not write it.

    Raises:
        FileError: the suffix is unknown, a file that is not ours is there and `overwrite` is False,
            the path cannot be written to, or kaleido is needed and fails.
    """
    path = check(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    if suffix == ".html":
        written = _encoded(page(content))
    elif suffix in _DRAWN:
        from visit_tl.view.kaleido_image import draw

        written = draw(content.figure(), suffix[1:], free=".html")
        if suffix == ".svg":
            written = f"<!-- {files.MARK} -->\n".encode() + written
    elif suffix == ".csv":
        written = _encoded(_csv(content.table()))
    else:
        written = _encoded(content.text())
    files.write(path, written)
    return path


def page(content: Content) -> str:
    """The sections as one HTML page that needs nothing else."""
    from plotly.offline import get_plotlyjs

    colours, sections = palette(content.theme), content.sections()
    parts, specs = [], []
    for section in sections:
        if len(sections) > 1:
            parts.append(f"<h2>{for_html(section.heading)}</h2>")
        for figure in section.figures:
            parts.append(f'<div class="figure" id="figure-{len(specs)}"></div>')
            specs.append({"data": figure.data, "layout": figure.layout})
        parts.append(
            f"<details><summary>as text</summary><pre>{for_html(section.text)}</pre></details>"
        )
    style = (
        f"body{{margin:16px;background:{colours.background};color:{colours.text};"
        f"font:14px/1.4 {FONT}}}h2{{margin:24px 0 0;font-size:18px}}"
        f"div.figure{{overflow-x:auto;margin-top:12px}}details{{margin:0 0 16px 14px}}"
        f"summary{{color:{colours.quiet};cursor:pointer}}pre{{font-size:12px}}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{for_html(_POLICY)}">'
        f'<meta name="generator" content="visit_tl">'
        f"<title>{for_html(readable(content.title))}</title><style>{style}</style></head><body>"
        f'{"".join(parts)}<script type="application/json" id="figures">{_json(specs)}</script>'
        f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>\n"
    )


_SCRIPT: Final = (
    'JSON.parse(document.getElementById("figures").textContent).forEach((one, i) => '
    'Plotly.newPlot("figure-" + i, one.data, one.layout, '
    '{displaylogo: false, plotlyServerURL: "", modeBarButtonsToRemove: '
    '["sendChartToCloud", "select2d", "lasso2d", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", '
    '"autoScale2d", "resetScale2d"]}));'
)


def _json(specs: list[dict[str, Any]]) -> str:
    """Figures as JSON that can stand in a page: no text in it can end the script."""
    from plotly.io.json import to_json_plotly

    found = str(to_json_plotly(specs))
    return found.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _csv(table: pd.DataFrame) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return json.dumps(value, ensure_ascii=True)
        return carried(value) if isinstance(value, str) else value

    columns = {name: [plain(value) for value in table[name]] for name in table.columns}
    return table.assign(**columns).to_csv(index=False, lineterminator="\n")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")
