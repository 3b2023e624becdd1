"""How a readout is computed: the way of multiplying (`way`) and the size of a tile of logits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from visit_tl.errors import InputError
from visit_tl.lens.product import WAYS, Way

_FORM: Final = re.compile(r"([a-z]+):([1-9][0-9]{0,8})x([1-9][0-9]{0,8})(:threads)?")


@dataclass(frozen=True)
class Kernel:
    """A way of multiplying, and the size of its tiles.

    Attributes:
        way: `torch` or `onednn`; see `product.py`.
        rows: Vectors per tile.
        columns: Tokens per tile.
        threads: Whether tiles are divided among threads, each of which works alone; if not, torch
            divides each operation.
    """

    way: Way
    rows: int
    columns: int
    threads: bool = False

    def __str__(self) -> str:
        return f"{self.way}:{self.rows}x{self.columns}{':threads' if self.threads else ''}"

    @classmethod
    def parse(cls, text: str) -> Kernel:
        """Read a kernel from the form that `str` writes, such as `torch:256x4096`.

        Raises:
            InputError: the text has another form.
        """
        match = _FORM.fullmatch(text)
        for way in WAYS:
            if match is not None and match[1] == way:
                return cls(way, int(match[2]), int(match[3]), match[4] is not None)
        raise InputError(
            f"{text!r} is not a kernel: it needs a way of multiplying ({', '.join(WAYS)}) and the "
            "numbers of vectors and tokens per tile, such as torch:256x4096; `:threads` at the end "
            "divides tiles among threads"
        )
