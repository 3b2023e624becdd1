"""What judging a circuit gave, as data (docs/maths.md, "Is a circuit enough?")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Final

from visit_tl.circuits.names import Part
from visit_tl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Relative difference of two metrics that is no difference. The same run reached by two ways in
# float32 differs by 1e-7 and less; a share of such a gap would be a share of rounding.
_ROUNDING: Final = 1e-6


def normalised(circuit: float, full: float, base: float) -> float:
    """(F(C) - F(base)) / (F(M) - F(base)): 0 does what the ablated model does, 1 what it all does.

    Raises:
        InputError: the two ends are the same, so the share is of nothing.
    """
    if abs(full - base) <= _ROUNDING * max(abs(full), abs(base)):
        raise InputError(
            f"the whole model and the ablated one both have a metric of {full:.6g}, so no share "
            f"between them is defined; choose pairs or a metric that tell them apart"
        )
    return (circuit - base) / (full - base)


@dataclass(frozen=True)
class Faithfulness:
    """The metric of a circuit beside those of the whole model and of nothing.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote: `resample`, `mean` or `zero`.
        coding: What the circuit counts: `edges`, `heads` (all MLPs kept) or `heads and MLPs`.
        size: How many of these it has.
        out_of: How many the model has.
        full: The metric of the whole model, pair by pair.
        circuit: Of the model reduced to the circuit.
        empty: Of the model with every edge cut.
        corrupted: Of the corrupted run; None where there is none.
        random: Of each random circuit of the same size.
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
        """What 0 is: the model with every edge cut. Resampled, that is the corrupted run."""
        return self.empty

    @property
    def faithfulness(self) -> float:
        """(F(C) - F(base)) / (F(M) - F(base)), each F a mean over the pairs."""
        return normalised(fmean(self.circuit), fmean(self.full), fmean(self.base))

    @property
    def mean_of_ratios(self) -> float:
        """The mean of the same over single pairs; it weighs pairs with a small gap more.

        Raises:
            InputError: a pair has no gap.
        """
        rows = zip(self.circuit, self.full, self.base, strict=True)
        return fmean(normalised(c, m, b) for c, m, b in rows)

    @property
    def difference(self) -> float:
        """|F(M) - F(C)| (Wang et al., 2022, 4)."""
        return abs(fmean(self.full) - fmean(self.circuit))

    @property
    def random_faithfulness(self) -> tuple[float, ...]:
        """The same of each random circuit."""
        full, base = fmean(self.full), fmean(self.base)
        return tuple(normalised(fmean(values), full, base) for values in self.random)

    @property
    def beats_random(self) -> float:
        """Share of random circuits that are farther from 1; NaN if none were measured."""
        off = [abs(1 - f) for f in self.random_faithfulness]
        own = abs(1 - self.faithfulness)
        return sum(own < other for other in off) / len(off) if off else float("nan")

    def to_dataframe(self) -> pd.DataFrame:
        """One row a circuit, the found one first: size, metric, faithfulness, difference."""
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
    """The circuit without subsets of its parts, beside the model without them.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote.
        coding: What the circuit counts.
        subsets: By name, the parts K that both did without.
        circuit: F(C - K) for each, pair by pair.
        full: F(M - K) likewise.
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
        """One row a subset: its parts, F(C - K), F(M - K), and their distance, incompleteness."""
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
    """The circuit without each of its parts.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote.
        coding: What the circuit counts.
        parts: The parts v, one at a time taken away.
        given: By part, the parts K that were taken away before; not there is none.
        without: F(C - (K + v)) for each, pair by pair.
        before: F(C - K) likewise.
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
        """One row a part: K, F(C - K), F(C - (K + v)), and their distance, minimality."""
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
