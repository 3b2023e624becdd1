"""Backward Lens as text: layers x positions, or the layers of one position in more detail."""

from __future__ import annotations

from typing import Final

from visit_tl.errors import InputError
from visit_tl.escaping import clip, table, visible
from visit_tl.gradients.backward_lens_result import BackwardLens, MatrixReadout
from visit_tl.graph.descriptions import number
from visit_tl.graph.records import TokenProbs
from visit_tl.view.figures.gradient_caption import TEXT_WIDTH, header, line

_TOKEN: Final = 9
"""The most columns of one token of a cell."""
_LAYER: Final = 9
"""Columns that the number of the layer and its gaps take."""


def text(lens: BackwardLens, matrix: str, position: int | None = None) -> str:
    r"""The gradients of one matrix as text, at most 110 columns wide; ends in a newline.

    As many positions as fit are side by side, the others below. A cell is `top \ bottom`, or the
    top token of an input, and the rank of the target; `·` marks a vector that is 0.

    Args:
        lens: The gradients.
        matrix: Which matrix.
        position: One position, in more detail: several tokens of each side, and the norms; negative
            ones count from the end. None for all that were read.

    Raises:
        InputError: the position was not read.
    """
    found = lens.matrices[matrix]
    lines = [*header(lens), line("matrix", _what(matrix, found))]
    if position is not None:
        return "\n".join([*lines, "", *_column(lens, found, position)]) + "\n"
    read = "input" if found.reads == "inputs" else "VJP"
    tokens = "top token" if found.reads == "inputs" else r"top \ bottom token"
    lines.append(line("cells", f"{tokens} of the {read}, and the rank of the target in it"))
    cell = _TOKEN if found.reads == "inputs" else 2 * _TOKEN + 3
    room = cell + 2 + max(4, len(str(lens.d_vocab - 1))) + 2
    side_by_side = max(1, (TEXT_WIDTH - _LAYER) // room)
    for start in range(0, len(lens.positions), side_by_side):
        part = range(start, min(start + side_by_side, len(lens.positions)))
        heads = [_heading(lens, lens.positions[j], cell) for j in part]
        rows = [["layer", *(field for name in heads for field in (name, "rank"))]]
        for i, layer in enumerate(lens.layers):
            cells = (_cell(found, i, j) for j in part)
            rows.append([str(layer), *(field for pair in cells for field in pair)])
        ranks = tuple(range(2, 2 * len(part) + 1, 2))
        lines += ["", *(row.rstrip() for row in table(rows, right=(0, *ranks)))]
    return "\n".join(lines) + "\n"


def _what(matrix: str, found: MatrixReadout) -> str:
    if found.reads == "inputs":
        return f"{matrix}, read by its inputs"
    return f"{matrix}, read by its VJPs; a step down the gradient adds what is at the bottom"


def _heading(lens: BackwardLens, position: int, limit: int) -> str:
    at = f" {position}"
    return f"{visible(lens.tokens[position], limit - len(at))}{at}"


def _cell(found: MatrixReadout, i: int, j: int) -> tuple[str, str]:
    top = found.words(i, j, "top")
    if not len(top):
        return "·", ""
    rank = str(found.ranks[i, j])
    shown = visible(top[0].token, _TOKEN)
    if found.reads == "inputs":
        return shown, rank
    return f"{shown} \\ {visible(found.words(i, j, 'bottom')[0].token, _TOKEN)}", rank


def _column(lens: BackwardLens, found: MatrixReadout, position: int) -> list[str]:
    n = len(lens.tokens)
    at = position + n if position < 0 else position
    if at not in lens.positions:
        raise InputError(
            f"position {position} was not read; this lens has "
            f"{', '.join(map(str, lens.positions[:12]))}{' ...' if lens.positions[12:] else ''}"
        )
    j = lens.positions.index(at)
    rows = [["layer", "norm", "rank", "top", "bottom"]]
    room = (TEXT_WIDTH - 34) // 2
    for i, layer in enumerate(lens.layers):
        top, bottom = (found.words(i, j, side) for side in ("top", "bottom"))
        rank = str(found.ranks[i, j]) if len(top) else ""
        words = [clip(_tokens(side), room) for side in (top, bottom)]
        rows.append([str(layer), number(float(found.norms[i, j])), rank, *words])
    name = f"position    {at} ({visible(lens.tokens[at], 40)})"
    return [name, "", *(row.rstrip() for row in table(rows, right=(0, 1, 2)))]


def _tokens(words: TokenProbs) -> str:
    return " ".join(visible(word.token, 14) for word in words) or "·"
