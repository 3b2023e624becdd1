"""A comparison with a reference circuit: a map of heads, or precision and recall of edges."""

from __future__ import annotations

import html as html_text
from typing import TYPE_CHECKING

import numpy as np

from visit_tl.circuits.comparison import Comparison, share
from visit_tl.graph.circuit_parts import Part
from visit_tl.view.figures.head_map import head_map
from visit_tl.view.figures.precision_recall import precision_recall

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure(found: Comparison, theme: str = "light") -> go.Figure:
    """For heads, a map of scores, the reference outlined; for edges, precision and recall."""
    if found.level == "edges":
        return precision_recall(found, theme=theme)
    scores = np.full((found.reference.n_layers, found.reference.n_heads), np.nan)
    for i in found.items:
        assert isinstance(i.item, Part)
        scores[i.item.layer, i.item.head] = np.nan if i.score is None else i.score
    return head_map(
        scores,
        reference=found.reference,
        title=f"{found.reference.name} · AUROC {share(found.auroc)} · average precision "
        f"{found.average_precision:.3f}",
        score=f"|{found.what}|" if found.absolute else found.what,
        theme=theme,
    )


def html(found: Comparison) -> str:
    """The numbers as a table."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html_text.escape(name.strip())}</th>'
        f'<td style="text-align:left">{html_text.escape(value)}</td></tr>'
        for name, value in found.rows()
    )
    return f"<table>{cells}</table>"
