"""`CheckReport`: what a model is, and how well each law holds, as rows, a table and text."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from visit_tl.model.facts import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

NOT_TRIED: Final = "not tried"


@dataclass(frozen=True)
class LawError:
    """How well one conservation law holds.

    Attributes:
        law: Its name (docs/maths.md, "Conservation").
        hook: The hook that holds the whole, where the error is largest.
        error: The largest relative error over all blocks.
    """

    law: str
    hook: str
    error: float


@dataclass(frozen=True)
class CheckReport:
    """What a model is, and whether its parts sum to the whole.

    Attributes:
        model: Its name.
        class_name: The class that holds it.
        transformer_lens: The installed release.
        n_layers: Number of blocks; None where it has none.
        norm: Kind of its norms, and where they are.
        positions: Kind of its position embedding.
        attention: Heads, K/V heads, and the window of local attention where it is known.
        mlp: Kind of its MLP and the activation.
        blocks: Whether attention and MLP are sequential or parallel.
        dtype: The dtype of its parameters.
        laws: Each law that could be measured, in the order of a block, the lens last.
        missing: Hooks of the first block that TransformerLens names but that are not there or did
            not fire; a graph may do without some of them. None if that could not be tried.
        tolerance: The relative error up to which a law holds, for this dtype; None if the model
            was refused before that was known.
        reason: Why the model is refused; None if it is exact.
        patching: Which way patched runs take, and why where it is not `rows`; see
            `visit_tl.causal.patching.batched_runs`.
        generation: Whether `model.generate`, with the model's own cache of keys and values, gives
            the logits of whole forward passes.
        tested: The releases that this package was tested with, and those that are installed.
        patched: Hooks left on the model that changed something. They acted during the check; the
            laws of activations that they replaced were not measured.
        adapters: The active adapters (LoRA and similar), merged or not.
        readout: How readouts are computed on this machine, and who chose it.
        quantised: How many linear layers are quantised, and their classes; empty if none is.
        unopened: The parts of blocks that were not taken apart, with their class, blocks and the
            reason; empty if all were.
        sinks: How much attention goes to no token, where the rows of patterns sum to less than 1;
            empty where they sum to 1.
    """

    model: str
    class_name: str
    transformer_lens: str
    n_layers: int | None
    norm: str
    positions: str
    attention: str
    mlp: str
    blocks: str
    dtype: str
    laws: tuple[LawError, ...]
    missing: tuple[str, ...] | None
    tolerance: float | None
    reason: str | None
    patching: str = NOT_TRIED
    generation: str = NOT_TRIED
    tested: str = ""
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    readout: str = NOT_TRIED
    quantised: str = ""
    unopened: str = ""
    sinks: str = ""

    @property
    def exact(self) -> bool:
        """Whether a graph of this model can be trusted."""
        return self.reason is None

    @property
    def verdict(self) -> str:
        """`exact`, or `refused: ` and the reason.

        What was not opened is named, and so are hooks left on the model that acted.
        """
        if self.reason is not None:
            return f"refused: {self.reason}"
        hooks = ", ".join(self.patched)
        patched = f", as patched by hooks left on the model at {hooks}" if hooks else ""
        closed = f", except inside of what was not opened: {self.unopened}" if self.unopened else ""
        return f"exact{patched}{closed}"

    @property
    def max_error(self) -> float | None:
        """The largest error of all laws; None if none could be measured."""
        return max((law.error for law in self.laws), default=None)

    def facts(self) -> list[tuple[str, str]]:
        """What the model is: names and values."""
        return [
            ("model", self.model),
            ("class", self.class_name),
            ("TransformerLens", self.transformer_lens),
            ("layers", UNKNOWN if self.n_layers is None else str(self.n_layers)),
            ("norm", self.norm),
            ("positions", self.positions),
            ("attention", self.attention),
            ("MLP", self.mlp),
            ("blocks", self.blocks),
            *([("not opened", self.unopened)] if self.unopened else []),
            *([("attention sinks", self.sinks)] if self.sinks else []),
            ("dtype", self.dtype),
            *([("adapters", ", ".join(self.adapters))] if self.adapters else []),
            *([("quantised", self.quantised)] if self.quantised else []),
        ]

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the report, top to bottom: names and values."""
        laws = [(law.law, f"{law.error:.1e} at {law.hook}") for law in self.laws]
        tolerance = [] if self.tolerance is None else [("tolerance", f"{self.tolerance:.0e}")]
        hooks = NOT_TRIED if self.missing is None else ", ".join(self.missing) or "none"
        ends = [
            ("hooks missing", hooks),
            ("patching", self.patching),
            ("generation", self.generation),
            ("readout", self.readout),
            ("tested with", self.tested),
            ("verdict", self.verdict),
        ]
        return [*self.facts(), *laws, *tolerance, *ends]

    def to_dataframe(self) -> pd.DataFrame:
        """One row, with the model as its index; combine several with `pandas.concat`."""
        import pandas as pd

        row: dict[str, Any] = dict(self.facts()) | {law.law: law.error for law in self.laws}
        row |= {"tolerance": self.tolerance, "max_error": self.max_error}
        row |= {"hooks missing": self.missing, "patching": self.patching}
        row |= {"generation": self.generation, "exact": self.exact, "verdict": self.verdict}
        return pd.DataFrame([row]).set_index("model")

    def __str__(self) -> str:
        rows = [(name, one_line(value)) for name, value in self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(one_line(value))}</td></tr>'
            for name, value in self.rows()
        )
        return f"<table>{cells}</table>"


def one_line(text: str) -> str:
    """A text without line breaks and runs of spaces."""
    return " ".join(text.split())
