"""HeadScores: several scores per head, each measured on every prompt of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Flags, Name
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of every head on every prompt.

    Attributes:
        model: Name of the model.
        values: By the name of the score, its values `[prompt, layer, head]`; NaN where a head was
            not measured. All are of the same prompts, in the same order.

    Raises:
        InputError: there is no score, or their shapes differ.
    """

    model: str
    values: Mapping[str, Float[np.ndarray, "prompt layer head"]] = field(repr=False)

    def __post_init__(self) -> None:
        shapes = {name: values.shape for name, values in self.values.items()}
        if len(set(shapes.values())) != 1 or any(len(shape) != 3 for shape in shapes.values()):
            raise InputError(
                f"scores of one model on the same prompts are [prompt, layer, head] of one shape, "
                f"got {shapes}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self.values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of prompts, of blocks, and of heads in a block."""
        n_prompts, n_layers, n_heads = next(iter(self.values.values())).shape
        return n_prompts, n_layers, n_heads

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        prompts, layers, heads = self.shape
        return (
            f"HeadScores({self.model}: {layers} x {heads} heads on {prompts} prompts; "
            f"{', '.join(self.names)})"
        )

    @checked
    def __getitem__(self, name: Name) -> Float[np.ndarray, "prompt layer head"]:
        """The values of one score.

        Raises:
            InputError: the score was not measured.
        """
        if name not in self.values:
            raise InputError(f"there is no score {name!r}; there are {', '.join(self.names)}")
        return self.values[name]

    @checked
    def mean(self, name: Name) -> Float[np.ndarray, "layer head"]:
        """The mean of one score over the prompts."""
        return self[name].mean(0)

    @checked
    def median(self, name: Name) -> Float[np.ndarray, "layer head"]:
        """The median of one score over the prompts; for ranks, whose mean a few prompts decide."""
        return np.median(self[name], 0)

    @checked
    def error(self, name: Name) -> Float[np.ndarray, "layer head"]:
        """The standard error of the mean; NaN for a single prompt."""
        values = self[name]
        if len(values) < 2:
            return np.full(values.shape[1:], np.nan)
        return values.std(0, ddof=1) / np.sqrt(len(values))

    @checked
    def joined(self, other: HeadScores) -> HeadScores:
        """Join these scores with others of the same prompts.

        Raises:
            InputError: the others are of another model or number of prompts, or share a name.
        """
        twice = sorted(set(self.names) & set(other.names))
        if twice or self.model != other.model or self.shape != other.shape:
            raise InputError(
                f"{self!r} and {other!r} cannot be joined: "
                + (f"both have {', '.join(twice)}" if twice else "they are of different runs")
            )
        return HeadScores(self.model, {**self.values, **other.values})

    @checked
    def where(self, prompts: Flags) -> HeadScores:
        """The scores of some of the prompts.

        Args:
            prompts: For each prompt, whether to keep it.

        Raises:
            InputError: there is not one flag per prompt, or no prompt is kept.
        """
        kept = np.asarray(prompts, dtype=bool)
        if kept.shape != (len(self),) or not kept.any():
            raise InputError(
                f"give one flag for each of the {len(self)} prompts, and keep at least one; got "
                f"flags of shape {list(kept.shape)}, {int(kept.sum())} of them True"
            )
        return HeadScores(self.model, {name: own[kept] for name, own in self.values.items()})

    @checked
    def top(self, name: Name, k: Count, *, absolute: Flag = False) -> tuple[NodeId, ...]:
        """The heads with the largest means of a score, largest first; ties keep their order.

        Args:
            name: The score; heads without it are never taken.
            k: How many heads.
            absolute: Whether to rank by the absolute value of the mean.

        Raises:
            InputError: fewer heads have the score, or k is below 1.
        """
        means = self.mean(name)
        found = int(np.isfinite(means).sum())
        if not 1 <= k <= found:
            raise InputError(f"k is {k}, but only {found} heads have the score {name!r}")
        sizes = np.nan_to_num(np.abs(means) if absolute else means, nan=-np.inf).ravel()
        order = np.argsort(-sizes, kind="stable")[:k]
        n_heads = means.shape[1]
        return tuple(NodeId("head", int(i) // n_heads, int(i) % n_heads) for i in order)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head, by name: the mean of each score, and its standard error as `± name`.

        Scores that are ranks are given as medians, without an error.
        """
        import pandas as pd

        _, n_layers, n_heads = self.shape
        columns: dict[str, np.ndarray] = {}
        for name in self.names:
            if is_rank(name):
                columns[name] = self.median(name).ravel()
            else:
                columns[name] = self.mean(name).ravel()
                columns[f"± {name}"] = self.error(name).ravel()
        heads = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
        return pd.DataFrame(columns, index=pd.Index(heads, name="head"))


def is_rank(name: str) -> bool:
    """Whether a score is a rank: lower is better, and its mean says little."""
    return name.split()[0] == "rank"
