"""Read prompts of TransformerLens's `evals.IOIDataset` and add corruptions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Foreign, Model, Seed, Unusable
from visit_tl.circuits.prompts.corrupt import NAMES_NEEDED, corrupted_names, replaced
from visit_tl.circuits.prompts.foreign import notes_on, shown, well_formed
from visit_tl.circuits.prompts.ioi_positions import ioi_positions
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report, Usable
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens, token_after_space
from visit_tl.circuits.prompts.unusable import (
    MALFORMED,
    NOT_IOI,
    SEVERAL_TOKENS,
    PairError,
    RowErrors,
)
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens


@checked
def read_ioi_dataset(
    dataset: Foreign,
    model: Model = None,
    *,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    unusable: Unusable = "raise",
) -> PromptSet:
    """Read the prompts of a `transformer_lens.evals.IOIDataset`.

    The dataset's texts end with their answer, which is cut off here. They are tokenised again,
    because the dataset's own tokens have two BOS with some tokenizers (TransformerLens 2.x). The
    dataset has no corruptions: `flip` is made here, and also `ABC` and `random-S2` if the dataset
    has at least five names that are single tokens.

    Args:
        dataset: The dataset, or anything with its `samples`: dicts of `text`, `IO` and `S`.
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers; None is the
            dataset's own tokenizer.
        seed: Seed for the choice of names in the corruptions.
        prepend_bos: Whether to prepend a BOS; None is the dataset's own setting.
        unusable: How to treat samples that cannot be used with this tokenizer: `raise` raises an
            error, `skip` leaves them out and lists them in `report.unusable`.

    Returns:
        The prompts, in the order of the dataset; `report.notes` says how many are different (with
        TransformerLens 2.x all are the same).

    Raises:
        InputError: `dataset` is not such a dataset; a text does not end with its IO; a name is not
            a single token; or IO is not in the text exactly once, or S not exactly twice. With
            `skip`, only if it is not such a dataset or no sample can be used.
    """
    errors = RowErrors("the dataset", unusable, "sample")
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or not samples:
        raise InputError(
            f"{type(dataset).__name__} has no list of samples; pass an evals.IOIDataset"
        )
    tokens = open_tokens(getattr(dataset, "tokenizer", None) if model is None else model)
    bos = getattr(dataset, "prepend_bos", None) if prepend_bos is None else prepend_bos
    offered: tuple[str, ...] = tuple(dict.fromkeys(getattr(dataset, "names", ())))
    found = {name: token_after_space(tokens, name) for name in offered}
    names = {name: token for name, token in found.items() if token is not None}
    errors.begin({index: _text(sample) for index, sample in enumerate(samples)})
    read = errors.each(
        dict(enumerate(enumerate(samples))),
        lambda each: _pair(tokens, each[0], each[1], names, (seed, bos)),
    )
    pairs = tuple(read.values())
    rejected = tuple(name for name in offered if name not in names)
    rows = (Usable("names", tuple(names), rejected, "not a single token with its space"),)
    eos = tokens.eos
    pad_id = 0 if eos is None else eos
    report = errors.report(Report(rows, notes_on(pairs)))
    return PromptSet(pairs, name_of(tokens), "ioi", pad_id, report)


def _text(sample: Any) -> str:
    text = sample.get("text") if isinstance(sample, dict) else None
    return text if isinstance(text, str) else ""


def _pair(
    tokens: Tokens,
    index: int,
    sample: Any,
    names: Mapping[str, int],
    options: tuple[int, bool | None],
) -> PromptPair:
    if not isinstance(sample, dict) or not all(
        isinstance(sample.get(key), str) for key in ("text", "IO", "S")
    ):
        raise PairError(
            MALFORMED, f"it is {shown(sample)}; expected a dict with the texts 'text', 'IO' and 'S'"
        )
    seed, bos = options
    io, s = sample["IO"].strip(), sample["S"].strip()
    if not sample["text"].endswith(" " + io):
        raise PairError(MALFORMED, f"it does not end with its answer, {' ' + io!r}")
    text = well_formed(sample["text"][: -len(io) - 1], "the text")
    ids = tokens.encode(text, bos).ids
    own = {name: _id(tokens, name) for name in (io, s)}
    positions = ioi_positions(ids, own[io], own[s])
    parts = re.split(rf"(?<!\w)({re.escape(io)}|{re.escape(s)})(?!\w)", text)
    if positions is None or sorted(parts[1::2]) != sorted([io, s, s]):
        raise PairError(
            NOT_IOI,
            f"it does not have the name {io!r} once and {s!r} twice, each as one token with its "
            f"space, the last of them {s!r}",
        )
    pool = list(names) if len(names) >= NAMES_NEEDED else []
    corrupted = {}
    for name, new in corrupted_names(io, s, pool, ("ioi", seed, "prompt", index)).items():
        by_slot = dict(zip(("IO", "S1", "S2"), new, strict=True))
        slots = sorted(by_slot, key=lambda slot: positions[slot])
        swapped = parts.copy()
        swapped[1::2] = [by_slot[slot] for slot in slots]
        new_ids = [{**names, **own}[each] for each in new]
        corrupted[name] = replaced(tokens, "".join(swapped), bos, (ids, positions), new_ids)
    return PromptPair(text, ids, (own[io],), (own[s],), positions, corrupted)


def _id(tokens: Tokens, name: str) -> int:
    token = token_after_space(tokens, name)
    if token is None:
        raise PairError(
            SEVERAL_TOKENS,
            f"the name {name!r} is not a single token of {name_of(tokens)} after a space; make the "
            f"dataset with names= that are",
        )
    return token
