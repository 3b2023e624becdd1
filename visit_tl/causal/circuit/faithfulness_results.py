"""Results of evaluating a circuit, as data (docs/maths.md, "Is a circuit enough?")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Final

from visit_tl.errors import InputError
from visit_tl.graph.circuit_parts import Part

if TYPE_CHECKING:
    import pandas as pd

# Two metrics with at most this relative difference count as equal. Two ways to compute the same run
# in float32 differ by at most 1e-7; a share of such a gap would be a share of rounding errors.
_ROUNDING: Final = 1e-6


def normalised(circuit: float, full: float, base: float) -> float:
    """(F(C) - F(base)) / (F(M) - F(base)): 0 is the ablated model, 1 the whole model.

    Raises:
        InputError: F(M) and F(base) are the same, so the share is not defined.
    """
    if abs(full - base) <= _ROUNDING * max(abs(full), abs(base)):
        raise InputError(
            f"the whole model and the ablated one both have a metric of {full:.6g}, so no share "
            f"between them is defined; choose pairs or a metric that tell them apart"
        )
    return (circuit - base) / (full - base)


@dataclass(frozen=True)
class Faithfulness:
    """The metric of a circuit, of the whole model, and of the model with every edge cut.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote: `resample`, `mean` or `zero`.
        coding: What the circuit counts: `edges`, `heads` (all MLPs kept) or `heads and MLPs`.
        size: How many of these it has.
        out_of: How many the model has.
        full: The metric of the whole model, pair by pair.
        circuit: The same of the model reduced to the circuit.
        empty: The same of the model with every edge cut.
        corrupted: The same of the corrupted run; None if there is none.
        random: The same of each random circuit of the same size.
    """

    model: str
    metric: str
    how: str
    coding: str
    size: int
    out_of: int
    full: tuple[float, ...] = field(repr=False)
    circuit: tuple[float, ...] = field(repr=False)
    empty: tuple[float, ...] = field(repr=False)
    corrupted: tuple[float, ...] | None = field(repr=False)
    random: tuple[tuple[float, ...], ...] = field(repr=False, default=())

    @property
    def base(self) -> tuple[float, ...]:
        """The metric at faithfulness 0: every edge cut; with `resample`, the corrupted run."""
        return self.empty

    @property
    def faithfulness(self) -> float:
        """(F(C) - F(base)) / (F(M) - F(base)), each F a mean over the pairs."""
        return normalised(fmean(self.circuit), fmean(self.full), fmean(self.base))

    @property
    def mean_of_ratios(self) -> float:
        """The mean of the faithfulness of single pairs; pairs with a small gap weigh more.

        Raises:
            InputError: a pair has no gap.
        """
        rows = zip(self.circuit, self.full, self.base, strict=True)
        return fmean(normalised(c, m, b) for c, m, b in rows)

    @property
    def difference(self) -> float:
        """|F(M) - F(C)| (Wang et al., 2022, section 4)."""
        return abs(fmean(self.full) - fmean(self.circuit))

    @property
    def random_faithfulness(self) -> tuple[float, ...]:
        """Faithfulness of each random circuit."""
        full, base = fmean(self.full), fmean(self.base)
        return tuple(normalised(fmean(values), full, base) for values in self.random)

    @property
    def beats_random(self) -> float:
        """Share of random circuits that are farther from 1; NaN if none were measured."""
        off = [abs(1 - f) for f in self.random_faithfulness]
        own = abs(1 - self.faithfulness)
        return sum(own < other for other in off) / len(off) if off else float("nan")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per circuit, the found one first: size, metric, faithfulness, difference."""
        import pandas as pd

        full = fmean(self.full)
        values = [self.circuit, *self.random]
        shares = [self.faithfulness, *self.random_faithfulness]
        rows = [
            {
                "circuit": "found" if i == 0 else f"random {i - 1}",
                "size": self.size,
                "metric": fmean(row),
                "faithfulness": share,
                "difference": abs(full - fmean(row)),
            }
            for i, (row, share) in enumerate(zip(values, shares, strict=True))
        ]
        return pd.DataFrame(rows).set_index("circuit")

    def text(self) -> str:
        """The result in one sentence, with the ablation named."""
        beats = f"; closer to 1 than {self.beats_random:.0%} of {len(self.random)} random ones"
        return (
            f"{self.size} of {self.out_of} {self.coding} of {self.model}, the rest ablated "
            f"({self.how}): faithfulness {self.faithfulness:.3f}, |F(M) - F(C)| "
            f"{self.difference:.3f} of {self.metric} over {len(self.full)} pairs"
            f"{beats if self.random else ''}"
        )

    __str__ = text


@dataclass(frozen=True)
class Completeness:
    """The metric of the circuit and of the model, both without subsets of the circuit's parts.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote.
        coding: What the circuit counts.
        subsets: By name, the parts K that were ablated in both.
        circuit: F(C - K) for each subset, pair by pair.
        full: F(M - K) for each subset, pair by pair.
    """

    model: str
    metric: str
    how: str
    coding: str
    subsets: Mapping[str, tuple[Part, ...]]
    circuit: tuple[tuple[float, ...], ...] = field(repr=False)
    full: tuple[tuple[float, ...], ...] = field(repr=False)

    @property
    def worst(self) -> float:
        """The largest |F(C - K) - F(M - K)|; 0 is complete."""
        return float(self.to_dataframe()["incompleteness"].max())

    def to_dataframe(self) -> pd.DataFrame:
        """One row per subset: its parts, F(C - K), F(M - K), and their distance, incompleteness."""
        import pandas as pd

        rows = [
            {
                "subset": name,
                "parts": " ".join(map(str, parts)),
                "circuit": fmean(c),
                "full": fmean(m),
                "incompleteness": abs(fmean(c) - fmean(m)),
            }
            for (name, parts), c, m in zip(
                self.subsets.items(), self.circuit, self.full, strict=True
            )
        ]
        return pd.DataFrame(rows).set_index("subset")


@dataclass(frozen=True)
class Minimality:
    """The metric of the circuit without each of its parts.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote.
        coding: What the circuit counts.
        parts: The parts v that were ablated, one at a time.
        given: By part v, the parts K that were ablated before it; a part without an entry has none.
        without: F(C - (K + v)) for each v, pair by pair.
        before: F(C - K) for each v, pair by pair.
    """

    model: str
    metric: str
    how: str
    coding: str
    parts: tuple[Part, ...]
    given: Mapping[Part, tuple[Part, ...]]
    without: tuple[tuple[float, ...], ...] = field(repr=False)
    before: tuple[tuple[float, ...], ...] = field(repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per part: K, F(C - K), F(C - (K + v)), and their distance, minimality."""
        import pandas as pd

        rows = [
            {
                "part": str(v),
                "given": " ".join(map(str, self.given.get(v, ()))),
                "before": fmean(b),
                "without": fmean(w),
                "minimality": abs(fmean(w) - fmean(b)),
            }
            for v, w, b in zip(self.parts, self.without, self.before, strict=True)
        ]
        return pd.DataFrame(rows).set_index("part")
