"""The figure of a study, chosen by what its table holds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

import plotly.graph_objects as go

from visit_tl.errors import InputError
from visit_tl.sweeps.paper_run import PaperRun
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.studies import curves, maps, neurons, norm_changes, token_tables
from visit_tl.view.style import palette

if TYPE_CHECKING:
    import pandas as pd


def figure(
    run: SweepRun, study: str, *, by: Sequence[str] | None = None, theme: str = "light"
) -> go.Figure:
    """The summary of a study as a figure.

    Tables of tokens are drawn as words, of norms as changes of probability, of neurons as points.
    All others are curves over the layers, or maps of layers and heads.

    Args:
        run: The run.
        study: Its name.
        by: The columns that are grouped by, `layer` among them; None is what the study says, and
            other columns are always drawn as curves or maps.
        theme: `light` or `dark`.

    Raises:
        InputError: the study has no layers or no numbers, there are more groups than can be drawn,
            or there is no such theme.
    """
    palette(theme)
    found = run.summary(study, by)
    if not len(found):
        raise InputError(f"{study} has no rows in this run, so there is nothing to draw")
    columns = set(found.columns)
    if by is None:
        if {"layer", "norm", "kind", "token", "before", "control_after"} <= columns:
            return norm_changes.figure(run, study, found, theme)
        for side in ("side", "kind"):
            if {side, "layer", "token", "token_id"} <= columns:
                return token_tables.figure(run, study, found, side, theme)
        if {"neuron", "dimension", "weight", "mean_absolute"} <= columns:
            return neurons.entries(run, study, found, theme)
        if {"neuron", "norm", "entropy", "layer_norm", "layer_entropy"} <= columns:
            return neurons.entropies(run, study, found, theme)
        if {"neuron", "layer"} <= columns:
            return neurons.shares(run, study, found, theme)
    return _by_layer(run, study, found, by, theme)


def _by_layer(
    run: SweepRun, study: str, found: pd.DataFrame, by: Sequence[str] | None, theme: str
) -> go.Figure:
    """Curves, or maps where a panel would have too many of them."""
    own = run.about["studies"][study]["by"] if by is None else by
    grouped = [name for name in dict.fromkeys(own) if name in found.columns]
    if "layer" not in grouped:
        raise InputError(
            f"{study} is summarised by {', '.join(grouped) or 'nothing'}, not by layer; see "
            f"summary(), or name by=[...] with layer"
        )
    numbers = [
        name
        for name in found.columns
        if f"{name}_se" in found.columns and name not in grouped and found[name].notna().any()
    ] or ["share"]
    others = [name for name in grouped if name != "layer"]
    if others == ["head"] or (len(others) == 1 and found[others[0]].nunique() > curves.MOST):
        return maps.figure(run, study, found, others[0], numbers, theme)
    n = 1
    for name in others:
        n *= found[name].nunique()
    if len(others) > 2 or n > curves.MOST:
        raise InputError(
            f"{study} by {', '.join(grouped)} would have {n} curves in a panel, and at most "
            f"{curves.MOST} are drawn; name fewer columns in by=[...], or see summary()"
        )
    return curves.figure(run, study, found, others, numbers, theme)


_ROWS: Final = 400
"""Rows of a summary that are written as text."""


def text(run: SweepRun, study: str) -> str:
    """The summary of a study as text."""
    found = run.summary(study)
    told = found.head(_ROWS).to_string(index=False, float_format="{:.4g}".format)
    left = len(found) - _ROWS
    return told if left <= 0 else f"{told}\n... and {left:,} more rows, in summary()"


def html(run: SweepRun | PaperRun) -> str:
    """The run as text in a notebook: its studies, their rows, and how far it is."""
    return f"<pre>{escape(str(run))}</pre>"
