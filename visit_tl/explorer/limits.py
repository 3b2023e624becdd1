"""How much the explorer takes at once; beyond it, a request is refused by name."""

from __future__ import annotations

from typing import Final

CHARACTERS: Final = 20_000
"""Characters of a prompt."""

TOKENS: Final = 1024
"""Tokens of a prompt; the context of the model if that is shorter."""

TYPED: Final = 300
"""Tokens that are shown one by one while a prompt is typed."""

EXPAND: Final = 6
"""Steps that memories are followed back."""

CHANGES: Final = 16
"""Changes of one run."""

OTHERS: Final = 16
"""Prompts that values are taken from."""

NODES: Final = 40_000
"""Nodes of a graph that is opened from a file."""

BODY: Final = 256 * 2**10
"""Bytes of a request."""

FILE: Final = 64 * 2**20
"""Bytes of a graph that is opened from a file."""

FLIGHT: Final = 24
"""Requests that are answered at the same time."""

KEPT: Final = 12
"""Graphs that are kept; a graph that was dropped is made again when it is asked for."""

PAGES: Final = 6
"""Pictures that are kept as pages."""
