"""What the rows of weight matrices read as, kept so that no row is read twice for one target.

Rows of W_O, columns of W_in and rows of W_out do not depend on the prompt: their top and bottom
tokens, entropy, and the logit and rank of a target are the same in every graph of a model. The rank
of a target needs every logit of a row, so what is kept is kept by target.
"""

from visit_tl.atlas.files import About, clear, info
from visit_tl.atlas.whole import build

__all__ = ["About", "build", "clear", "info"]
