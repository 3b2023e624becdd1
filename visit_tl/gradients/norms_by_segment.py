"""Backward Lens over many prompts, by segment of the prompt (Katz et al., 2024, Figs 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Flag, Layers, Model, Names
from visit_tl.errors import InputError
from visit_tl.gradients.lens_of_gradients import backward_lens
from visit_tl.model.backward import MATRICES
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

if TYPE_CHECKING:
    import pandas as pd

SEGMENTS: Final = (
    "before subject",
    "subject first",
    "subject middle",
    "subject last",
    "after subject",
    "last token",
)
"""Segments of a prompt, in order. A subject of one token is its own last token. A subject at the
end of the prompt has its last token there, and counts as `last token`."""

Facts = Annotated[
    Sequence[Any],
    Taken("a list of (prompt, subject, target)", "[('Paris is in', 'Paris', ' France')]", "Many",
          form=plain.many),
]  # fmt: skip


@checked
def segment_summary(
    model: Model,
    facts: Facts,
    *,
    layers: Layers | None = None,
    matrices: Names = ("W_in", "W_out"),
    normalise: Flag = True,
    prepend_bos: Flag | None = None,
    verbose: Flag = True,
) -> pd.DataFrame:
    """Average norms and ranks of gradients over prompts, by matrix, layer and segment.

    Each prompt counts once for a segment: the mean over its tokens there. A BOS is left out.

    Args:
        model: As for `flow_graph`.
        facts: For each prompt (text, subject, target); the subject stands in the text.
        layers: As for `backward_lens`.
        matrices: As for `backward_lens`.
        normalise: As for `backward_lens`.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Returns:
        One row for each matrix, layer and segment that occurs. Columns: matrix, layer, segment,
        norm and input_norm (of VJPs and inputs), rank (of the target, where the vector is not 0),
        each with its standard error (`norm_se`, ...; NaN for one prompt), and n, the number of
        prompts.

    Raises:
        InputError: a subject is not in its prompt, or tokens do not spell the prompt.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    view = ModelView(model)
    tables: list[pd.DataFrame] = []
    for i, fact in enumerate(tqdm(facts, desc="backward lens", disable=not verbose)):
        prompt, subject, target = _fact(fact)
        tokens = view.tokens.encode(prompt, prepend_bos)
        segments = segments_of(view, tokens, subject)
        lens = backward_lens(
            view.model,
            prompt,
            target,
            layers=layers,
            matrices=matrices,
            normalise=normalise,
            prepend_bos=prepend_bos,
            k=1,
            check="one" if i == 0 else "none",
        )
        table = lens.to_dataframe()
        table["segment"] = table["position"].map(dict(enumerate(segments)))
        table["rank"] = table["rank"].astype(float).mask(table["rank"] < 0)
        kept = table.dropna(subset=["segment"])
        keys = ["matrix", "layer", "segment"]
        tables.append(kept.groupby(keys, sort=False)[["norm", "input_norm", "rank"]].mean())
    if not tables:
        raise InputError("no facts were given; give at least one (prompt, subject, target)")
    every = pd.concat(tables).reset_index()
    grouped = every.groupby(["matrix", "layer", "segment"], sort=False)
    result = grouped.mean()
    for name in ("norm", "input_norm", "rank"):
        result[f"{name}_se"] = grouped[name].sem()
    result["n"] = grouped["norm"].count()
    order = {name: i for i, name in enumerate((*MATRICES, *SEGMENTS))}
    return result.reset_index().sort_values(
        ["matrix", "layer", "segment"],
        key=lambda column: column.map(order) if column.name != "layer" else column,
        ignore_index=True,
    )


def _fact(fact: object) -> tuple[str, str, str]:
    parts = tuple(fact) if isinstance(fact, Sequence) and not isinstance(fact, str) else ()
    if len(parts) != 3 or not all(isinstance(part, str) and part for part in parts):
        raise InputError(f"a fact is (prompt, subject, target), three texts; got {fact!r:.80}")
    return parts  # type: ignore[return-value]


def segments_of(view: ModelView, tokens: Prompt, subject: str) -> list[str | None]:
    """The segment of each token of a prompt; None for a BOS.

    Raises:
        InputError: the subject is not in the prompt, or the tokens do not spell it.
    """
    skipped = int(tokens.prepend_bos or tokens.bos_in_prompt)
    texts = [view.tokens.text(i) for i in tokens.ids[skipped:]]
    spelled = "".join(texts)
    begin = spelled.find(subject)
    if begin < 0 or not spelled.endswith(tokens.text):
        raise InputError(
            f"the subject {subject!r} is not found in the tokens of {tokens.text!r}, which spell "
            f"{spelled!r}"
        )
    ends = np.cumsum([len(text) for text in texts])
    starts = ends - [len(text) for text in texts]
    inside = (ends > begin) & (starts < begin + len(subject))
    first, last = (int(np.flatnonzero(inside)[i]) for i in (0, -1))
    found: list[str | None] = []
    for i in range(len(texts)):
        if i == len(texts) - 1:
            found.append("last token")
        elif i < first:
            found.append("before subject")
        elif i == last:
            found.append("subject last")
        elif i == first:
            found.append("subject first")
        else:
            found.append("subject middle" if i < last else "after subject")
    return [None] * skipped + found
