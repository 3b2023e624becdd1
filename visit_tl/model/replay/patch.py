"""Changes of a forward pass, and the hook functions that apply them to the runs of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from visit_tl.errors import InputError, ModelError


@dataclass(frozen=True, eq=False)
class Write:
    """One change of a forward pass: a value written into a hook's tensor.

    Attributes:
        hook: TransformerLens name of a hook with a tensor `[batch, pos, ...]`, such as
            `blocks.9.attn.hook_z`.
        index: Index into the tensor of one run, position first (not negative), such as `(13, 6)`.
        value: The value, of the shape of the indexed part.
        add: Add the value instead of replacing what is there.
    """

    hook: str
    index: tuple[int | slice | Tensor, ...]
    value: Tensor
    add: bool = False

    @property
    def layer(self) -> int:
        """The block that the hook is in."""
        return int(self.hook.split(".")[1])

    @property
    def position(self) -> int:
        """The position that is changed."""
        first = self.index[0]
        return first if isinstance(first, int) else 0


class Placed:
    """The changes of each run of a batch, and the hook functions that apply them.

    Args:
        first: The position of the first row of the hooks' tensors.

    Attributes:
        writes: The changes, each with the index of its run in the batch.
        fired: The hooks that have been called; clear it before each call of a block.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.writes: list[tuple[int, Write]] = []
        # In compatibility mode TransformerLens calls a hook once for each of its names.
        self.fired: set[str] = set()
        self._ever: set[str] = set()

    def hooks(self) -> list[tuple[str, Callable[[Tensor, Any], Tensor | None]]]:
        """Pairs of hook name and function, as TransformerLens takes them."""
        by_name: dict[str, list[tuple[int, Write]]] = {}
        for i, write in self.writes:
            by_name.setdefault(write.hook, []).append((i, write))
        return [(name, self._changer(name, writes)) for name, writes in by_name.items()]

    def require_all(self, model: str) -> None:
        """Require that every change was made.

        Raises:
            ModelError: a hook did not fire; the message names it.
        """
        for _, write in self.writes:
            if write.hook not in self._ever:
                raise ModelError(
                    f"the hook {write.hook} of {model} did not fire, so nothing was patched there"
                )

    def _changer(
        self, name: str, writes: list[tuple[int, Write]]
    ) -> Callable[[Tensor, Any], Tensor | None]:
        def change(tensor: Tensor, hook: Any) -> Tensor | None:
            if name in self.fired:
                return None
            self.fired.add(name)
            self._ever.add(name)
            tensor = tensor.clone()
            for i, write in writes:
                at = (i, *self._local(write.index))
                value = write.value.to(tensor.device, tensor.dtype)
                tensor[at] = tensor[at] + value if write.add else value
            return tensor

        return change

    def _local(self, index: tuple[int | slice | Tensor, ...]) -> tuple[int | slice | Tensor, ...]:
        """The same index, relative to the first computed row."""
        position = index[0]
        if isinstance(position, slice):
            if self.first:
                raise InputError(f"a change at positions {position} needs all rows computed")
            return index
        return (position - self.first, *index[1:])
