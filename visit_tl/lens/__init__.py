"""The logit lens: top and bottom tokens of vectors, and the ranks of targets.

Logits are computed in tiles, by the matrix product that is fastest on this machine. Nothing here
depends on graphs.
"""

from visit_tl.lens.readout import Readout, read

__all__ = ["Readout", "read"]
