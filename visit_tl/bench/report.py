"""Results of the benchmark, as text, as Markdown and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Timing:
    """One measurement.

    Attributes:
        part: What it belongs to, such as `readout` or `layers`.
        what: What was done.
        seconds: Time of the quickest run.
        product: Seconds of the matrix product it is compared with; None if there is none.
        peak: Largest increase of memory, in bytes; None where it was not measured.
    """

    part: str
    what: str
    seconds: float
    product: float | None = None
    peak: int | None = None

    @property
    def ratio(self) -> float | None:
        """The time as a multiple of that of the matrix product."""
        return None if self.product is None else self.seconds / self.product


@dataclass(frozen=True)
class Figure:
    """One summary number of the benchmark.

    Attributes:
        what: What is divided by what, or what is measured.
        value: The number.
        unit: `x` for a ratio; `s` or `MB`.
    """

    what: str
    value: float
    unit: str = "x"

    def __str__(self) -> str:
        return f"{self.value:.2f} {self.unit}" if self.unit != "MB" else f"{self.value:.0f} MB"


@dataclass(frozen=True)
class Bench:
    """All results of one benchmark.

    Attributes:
        machine: Model, processor, threads, dtype and releases.
        kernel: The kernel that computed the readouts, and who chose it.
        figures: Summary numbers: ratios, and a few in seconds and megabytes.
        rows: The measurements, in their order.
    """

    machine: str
    kernel: str
    figures: tuple[Figure, ...]
    rows: tuple[Timing, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per measurement: part, what, seconds, ratio, peak_mb."""
        import pandas as pd

        columns = ["part", "what", "seconds", "ratio", "peak_mb"]
        return pd.DataFrame(
            [(r.part, r.what, r.seconds, r.ratio, _megabytes(r.peak)) for r in self.rows],
            columns=pd.Index(columns),
        )

    def markdown(self) -> str:
        """The results as two Markdown tables."""
        lines = [self.machine, "", f"Kernel: {self.kernel}", "", "| | |", "|---|--:|"]
        lines += [f"| {figure.what} | {figure} |" for figure in self.figures]
        lines += ["", "| | | seconds | × product | peak MB |", "|---|---|--:|--:|--:|"]
        for row in self.rows:
            cells = (row.part, row.what, f"{row.seconds:.3f}", _cell(row.ratio, ".2f"))
            lines.append(f"| {' | '.join(cells)} | {_cell(_megabytes(row.peak), '.0f')} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = [self.machine, f"kernel: {self.kernel}", ""]
        width = max((len(figure.what) for figure in self.figures), default=0)
        lines += [f"{figure.what:<{width}}  {figure!s:>10}" for figure in self.figures]
        width = max((len(row.what) for row in self.rows), default=0)
        lines += ["", f"{'':<10}{'':<{width}}  seconds  x product  peak MB"]
        for row in self.rows:
            ratio, peak = _cell(row.ratio, ".2f"), _cell(_megabytes(row.peak), ".0f")
            lines.append(
                f"{row.part:<10}{row.what:<{width}}{row.seconds:>9.3f}{ratio:>11}{peak:>9}"
            )
        return "\n".join(lines)


def _megabytes(peak: int | None) -> float | None:
    return None if peak is None else peak / 2**20


def _cell(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)
