"""A cache of the logit-lens readouts of weight rows, so that no row is read twice for one target.

Rows of W_O, columns of W_in and rows of W_out do not depend on the prompt: their top and bottom
tokens, entropy, and the logit and rank of a target are the same in every graph of a model. The rank
of a target needs every logit of a row, so the readouts are stored per target.
Nothing here depends on graphs or on how a graph chooses its nodes.
"""

from visit_tl.atlas.all_rows import build
from visit_tl.atlas.files import About, clear, info

__all__ = ["About", "build", "clear", "info"]
