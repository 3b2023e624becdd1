"""A lens as data: for each block, the map from its output to the output of the last block."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.graph.lens_record import STATES, LensRecord, block_of

_NONE: Final = -2
_COMMIT: Final = re.compile(r"[0-9a-fA-F]{7,64}")
_KINDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "name": ((str,), "a text"),
    "maps": ((Mapping,), "a dict of matrices by block"),
    "biases": ((Mapping,), "a dict of vectors by block; leave it out if there are none"),
    "model": ((str, type(None)), "a text, or None"),
    "n_layers": ((int, type(None)), "an integer, or None"),
    "raw": ((bool,), "True or False"),
    "facts": ((Mapping,), "a dict; leave it out if there are none"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Lens:
    """A lens that carries vectors to the last block's output before they are read.

    A state `v` after block l is read as `W_U norm(M_l v + b_l)`; a part of a state, such as a head,
    without `b_l`. The output of the last block is read as it is (docs/maths.md, "Other lenses").

    Attributes:
        name: What graphs and tables call it.
        maps: By block, `M_l`: `[d_model, d_model]`; -1 is the state before block 0. Any tensors or
            arrays are taken, and kept as float32 tensors on the CPU.
        biases: By block, `b_l`: `[d_model]`; empty if the lens is linear.
        model: Name of the model that it was fitted on; None if unknown. If the same model is open
            here under another name, `dataclasses.replace(lens, model=None)` leaves out the name and
            the revision.
        n_layers: Number of blocks of that model; None if unknown.
        raw: Whether it was fitted on the model's own activations. Such a lens is refused by a model
            whose residual stream was centred when it was loaded.
        facts: What else is known of how it was made.

    Raises:
        InputError: a map or bias is not a square matrix or vector of one width, or not finite; or
            another attribute is of another type.
    """

    name: str
    # What is given is checked below, by name, so that its shapes do not stand here.
    maps: Mapping[Any, Any]
    biases: Mapping[Any, Any] = field(default_factory=dict)
    model: str | None = None
    n_layers: int | None = None
    raw: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for attribute, (kinds, words) in _KINDS.items():
            value = getattr(self, attribute)
            # True is an int, and no number of blocks.
            if not isinstance(value, kinds) or (value is True and bool not in kinds):
                raise InputError(f"the {attribute} of a lens must be {words}, got {short(value)}")
        if not self.name:
            raise InputError("the name of a lens is empty; graphs and tables show it")
        maps = _tensors(self.maps, 2, "map")
        biases = _tensors(self.biases, 1, "bias")
        if not maps:
            raise InputError(f"the lens {self.name!r} has no maps; it needs one for each block")
        d_model = next(iter(maps.values())).shape[0]
        for what, found in (("map", maps), ("bias", biases)):
            for block, tensor in found.items():
                if set(tensor.shape) != {d_model}:
                    raise InputError(
                        f"the {what} of block {block} of the lens {self.name!r} is "
                        f"{list(tensor.shape)}, not {[d_model] * tensor.ndim}"
                    )
        if extra := sorted(set(biases) - set(maps)):
            raise InputError(f"the lens {self.name!r} has a bias but no map of block {extra[0]}")
        object.__setattr__(self, "maps", maps)
        object.__setattr__(self, "biases", biases)

    def __repr__(self) -> str:
        whose = f" of {self.model}" if self.model else ""
        return f"<{self.name}{whose}: {len(self.maps)} maps of {self.d_model} x {self.d_model}>"

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return next(iter(self.maps.values())).shape[0]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that it has maps for; -1 is the embedding."""
        return tuple(self.maps)

    @property
    def revision(self) -> str | None:
        """The commit of the model's repository that it was fitted on; None if its facts say none.

        A name such as `main` is none: it says nothing of what was there when the lens was fitted.
        """
        names = ("model_revision", "base_model_revision")  # TransformerLens's, tuned-lens's
        said = (self.facts.get(name) for name in names)
        return next((s.lower() for s in said if isinstance(s, str) and _COMMIT.fullmatch(s)), None)

    @cached_property
    def digest(self) -> str:
        """The sha256 of its maps and biases, shortened."""
        hashed = hashlib.sha256()
        for part in (self.maps, self.biases):
            for block, tensor in part.items():
                hashed.update(f"{block} {tuple(tensor.shape)}".encode())
                hashed.update(tensor.contiguous().numpy().data)
        return hashed.hexdigest()[:16]

    @cached_property
    def record(self) -> LensRecord:
        """What a graph keeps of the lens that read it."""
        return LensRecord(self.name, self.blocks, self.digest)

    def carry(
        self,
        vectors: Float[Tensor, "component d_model"],
        blocks: Sequence[int | None],
        whole: Sequence[bool],
    ) -> Float[Tensor, "component d_model"]:
        """The vectors at the last block's output; one matrix product for each distinct block.

        Args:
            vectors: The vectors.
            blocks: For each, the block whose output it is at; where it is None or the lens has no
                map for it, the vector is returned as it is.
            whole: For each, whether it is a whole state, to which the bias is added.
        """
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        return self._carried(vectors.to(dtype, copy=True), blocks, whole)

    def carry_nodes(
        self, vectors: Float[Tensor, "component d_model"], nodes: Iterable[NodeId]
    ) -> Float[Tensor, "component d_model"]:
        """`carry` for the vectors of nodes, which it overwrites.

        The kinds of the nodes say which map, and whether the bias. A copy of the vectors would take
        half as long as the products.
        """
        ids = list(nodes)
        whole = [node.kind in STATES for node in ids]
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        return self._carried(vectors, [block_of(node) for node in ids], whole)

    def _carried(
        self, vectors: Tensor, blocks: Sequence[int | None], whole: Sequence[bool]
    ) -> Tensor:
        of = np.array([_NONE if block is None else block for block in blocks], np.int64)
        biased = np.asarray(whole, bool)
        order = np.argsort(of, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
            block = int(of[part[0]])
            if block not in self.maps:
                continue
            rows = torch.from_numpy(part).to(vectors.device)
            mapped = vectors.index_select(0, rows) @ self.maps[block].to(vectors).T
            if block in self.biases:
                states = torch.from_numpy(biased[part]).to(vectors)
                mapped += states[:, None] * self.biases[block].to(vectors)
            vectors.index_copy_(0, rows, mapped)
        return vectors


def _tensors(given: Mapping[Any, Any], ndim: int, what: str) -> dict[int, Tensor]:
    """Float32 tensors on the CPU, by block in ascending order.

    Raises:
        InputError: a key is no block, or a value no finite tensor of that many dimensions.
    """
    found = {}
    for block, value in given.items():
        if isinstance(block, bool) or not isinstance(block, int | np.integer) or block < -1:
            raise InputError(
                f"a lens has one {what} for each block, by its number (-1 is the embedding); got "
                f"the key {str(block)[:40]!r}"
            )
        tensor = torch.from_numpy(value) if _is_numpy(value) else value
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(value).__name__
            raise InputError(f"the {what} of block {block} is {kind}, not a tensor of floats")
        if tensor.ndim != ndim or tensor.layout is not torch.strided or tensor.is_meta:
            raise InputError(
                f"the {what} of block {block} is {list(tensor.shape)} ({tensor.layout}, "
                f"{tensor.device}), not a dense tensor of {ndim} dimensions"
            )
        tensor = tensor.detach().to("cpu", torch.float32)
        # One sum is faster than testing every number; they are tested only if it fails.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise InputError(f"the {what} of block {block} holds NaN or infinity")
        found[int(block)] = tensor
    return dict(sorted(found.items()))


def _is_numpy(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"
