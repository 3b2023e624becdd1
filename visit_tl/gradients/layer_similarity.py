"""How alike the gradients of different blocks are (Katz et al., 2024, App. G)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Name, Position
from visit_tl.errors import InputError
from visit_tl.gradients.backward_lens_result import BackwardLens
from visit_tl.gradients.factors import READ

if TYPE_CHECKING:
    import pandas as pd

Lens = Annotated[BackwardLens, Taken("the result of backward_lens", classes=(BackwardLens,))]


@checked
def similarity(lens: Lens, matrix: Name = "W_out", position: Position = -1) -> pd.DataFrame:
    """Cosines between the vectors of one matrix in all blocks, at one position.

    Args:
        lens: A Backward Lens.
        matrix: Which matrix; the vectors are those that are read as words.
        position: The position.

    Returns:
        A symmetric table, layers by layers; NaN where a vector is 0.

    Raises:
        InputError: the matrix or position is not in the lens.
    """
    import pandas as pd

    n = len(lens.tokens)
    if not -n <= position < n:
        raise InputError(f"position {position} is outside the prompt of {n} tokens")
    which = READ[lens.chosen(matrix)]
    rows = torch.stack(
        [getattr(lens.factors(layer, matrix), which)[position] for layer in lens.layers]
    ).double()
    unit = rows / rows.norm(dim=-1, keepdim=True)
    return pd.DataFrame((unit @ unit.T).cpu().numpy(), index=lens.layers, columns=lens.layers)
