"""Drawn, the base class of results that `view/` draws.

Its import of `view/` is the only import in the package that points upwards.
"""

from __future__ import annotations

from typing import Any


class Drawn:
    """A result that `view/` can draw.

    `visit_tl/view/registry.py` names the function that draws each class.
    """

    __slots__ = ()

    def _drawn(self, form: str, *args: Any, **options: Any) -> Any:
        """Draw this result in one form: `figure`, `text` or `html`."""
        from visit_tl.view.registry import renderer

        return renderer(type(self), form)(self, *args, **options)

    def __str__(self) -> str:
        return self._drawn("text")

    def _repr_html_(self) -> str:
        return self._drawn("html")
