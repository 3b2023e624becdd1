"""shift_sweep: which layers and etas make the shift edit work, and what else it changes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Budgets, Flag, Layers, MeanOver, Model
from visit_tl.errors import InputError
from visit_tl.gradients.loss import first_token
from visit_tl.gradients.shift_edit import hidden_activations, require_layers, target_direction
from visit_tl.model.last_logits import last_logits
from visit_tl.model.view import ModelView
from visit_tl.model.weight_edits import w_out_changed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Edit:
    """One fact to write into a model.

    Attributes:
        prompt: The prompt.
        target: What should continue it after the edit, with its leading space.
        paraphrases: Prompts that ask the same; the target should continue them too.
        neighbours: Pairs of another prompt and its own continuation, which should stay.
    """

    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = field(default=(), repr=False)


Edits = Annotated[
    Sequence[Any], Taken("a list of Edit", "[Edit('Paris is in', ' Italy')]", "Many",
                          form=plain.many),
]  # fmt: skip


@dataclass(frozen=True)
class ShiftSweep:
    """What edits of every layer and eta did, averaged over the edits.

    Attributes:
        rows: One row for each layer and eta, and one with no edit (layer None, eta 0): dicts with
            layer, eta, efficacy, paraphrase, neighbourhood (shares of prompts whose most probable
            token is the one that is wanted; NaN without such prompts), drift (mean KL of the
            unedited from the edited distribution on other prompts, in nats), each with its standard
            error over the edits (`efficacy_se`, ...), and n.
    """

    rows: tuple[dict[str, float | int | None], ...] = field(repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.rows))

    def best(self) -> dict[str, float | int | None]:
        """The row with the largest efficacy; of those, the one with the least drift."""
        return max(
            (row for row in self.rows if row["layer"] is not None),
            key=lambda row: (row["efficacy"], -(row["drift"] or 0.0)),
        )


@checked
def shift_sweep(
    model: Model,
    edits: Edits,
    *,
    layers: Layers | None = None,
    etas: Budgets = (0.05, 0.1, 0.24, 0.5, 1.0),
    others: MeanOver = (),
    prepend_bos: Flag | None = None,
    verbose: Flag = True,
) -> ShiftSweep:
    """Try the shift edit for several facts, one at a time, in every layer and with every eta.

    Args:
        model: As for `flow_graph`.
        edits: The facts to write.
        layers: Blocks, one or several; None or `all` is all.
        etas: Factors of the edit.
        others: Prompts that have nothing to do with the edits, to measure the drift on.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Raises:
        InputError: no edits, or something else in them than `Edit`.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    chosen = view.check_layers(layers, gaps=True)
    require_layers(view, chosen)
    cases = [_Case(view, edit, prepend_bos) for edit in _edits(edits)]
    far = [view.tokens.encode(prompt, prepend_bos).ids for prompt in others]
    clean = last_logits(view, far).log_softmax(-1) if far else None
    grid: list[tuple[int | None, float]] = [(None, 0.0), *itertools.product(chosen, etas)]
    found: dict[tuple[int | None, float], list[dict[str, float]]] = {place: [] for place in grid}
    with tqdm(total=len(cases) * len(grid), desc="shift edits", disable=not verbose) as bar:
        for case in cases:
            hidden = hidden_activations(view, case.tokens, chosen, len(case.tokens.ids) - 1)
            for layer, eta in grid:
                with case.edited(hidden, layer, eta):
                    found[layer, eta].append(case.scores(far, clean))
                bar.update()
    return ShiftSweep(tuple(_row(layer, eta, found[layer, eta]) for layer, eta in grid))


def _edits(edits: Sequence[Any]) -> list[Edit]:
    if not edits:
        raise InputError("no edits were given; give at least one Edit(prompt, target)")
    for edit in edits:
        if not isinstance(edit, Edit):
            raise InputError(f"edits are visit_tl.gradients.Edit, got {type(edit).__name__}")
    return list(edits)


class _Case:
    """One edit, tokenised."""

    def __init__(self, view: ModelView, edit: Edit, prepend_bos: bool | None) -> None:
        self.view = view
        self.tokens = view.tokens.encode(edit.prompt, prepend_bos)
        self.target = first_token(view, edit.target)
        self.direction = target_direction(view, self.target)
        same = [view.tokens.encode(text, prepend_bos).ids for text in edit.paraphrases]
        near = [(view.tokens.encode(text, prepend_bos).ids, own) for text, own in edit.neighbours]
        self.prompts = [self.tokens.ids, *same, *(ids for ids, _ in near)]
        wanted = [self.target] * (1 + len(same)) + [first_token(view, own) for _, own in near]
        self.wanted = torch.tensor(wanted, device=view.W_U.device)
        self.n_same = len(same)

    def edited(
        self, hidden: dict[int, Tensor], layer: int | None, eta: float
    ) -> AbstractContextManager[None]:
        """The edit of one layer with one eta; without a layer, none."""
        if layer is None:
            return nullcontext()
        return w_out_changed(self.view, layer, eta * hidden[layer], self.direction)

    def scores(self, far: Sequence[tuple[int, ...]], clean: Tensor | None) -> dict[str, float]:
        """Efficacy, paraphrase, neighbourhood and drift of the model as it is now."""
        logits = last_logits(self.view, [*self.prompts, *far])
        n = len(self.prompts)
        right = (logits[:n].argmax(-1) == self.wanted).float()
        split = 1 + self.n_same
        drift = torch.nan
        if clean is not None:
            now = logits[n:].log_softmax(-1)
            drift = float((clean.exp() * (clean - now)).sum(-1).mean())
        return {
            "efficacy": float(right[0]),
            "paraphrase": float(right[1:split].mean()),
            "neighbourhood": float(right[split:].mean()),
            "drift": drift,
        }


def _row(
    layer: int | None, eta: float, scores: list[dict[str, float]]
) -> dict[str, float | int | None]:
    row: dict[str, float | int | None] = {"layer": layer, "eta": eta}
    for name in scores[0]:
        values = torch.tensor([score[name] for score in scores], dtype=torch.float64)
        values = values[~values.isnan()]
        row[name] = float(values.mean()) if len(values) else torch.nan
        row[f"{name}_se"] = (
            float(values.std() / len(values) ** 0.5) if len(values) > 1 else torch.nan
        )
    return row | {"n": len(scores)}
