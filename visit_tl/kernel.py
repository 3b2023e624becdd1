"""How a readout is worked out: the way of multiplying, and the size of a tile of logits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from visit_tl.errors import InputError
from visit_tl.product import WAYS, Way

_FORM: Final = re.compile(r"([a-z]+):([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Kernel:
    """A way of multiplying, in tiles of a size.

    Attributes:
        way: `torch` or `onednn`; see `product.py`.
        rows: Vectors of a tile.
        columns: Tokens of a tile.
    """

    way: Way
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.way}:{self.rows}x{self.columns}"

    @classmethod
    def parse(cls, text: str) -> Kernel:
        """The kernel that `str` wrote, such as `torch:256x4096`.

        Raises:
            InputError: it is of another form.
        """
        match = _FORM.fullmatch(text)
        for way in WAYS:
            if match is not None and match[1] == way:
                return cls(way, int(match[2]), int(match[3]))
        raise InputError(
            f"{text!r} is no way of reading: it takes a way of multiplying ({', '.join(WAYS)}) and "
            "the vectors and tokens of a tile, such as torch:256x4096"
        )
