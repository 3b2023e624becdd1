"""Helpers for reading prompts of other packages: files, token ids, IOI positions and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visit_tl.arguments.plain import half_pair
from visit_tl.circuits.prompts.ioi_positions import ioi_positions
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.unusable import (
    MALFORMED,
    NOT_IOI,
    OTHER_TOKENIZER,
    PairError,
    RowErrors,
)
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens
from visit_tl.strict_json import parse_json


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text.

    Raises:
        InputError: the file does not exist or is not UTF-8 text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or NUL in the path
        raise InputError(f"{path} cannot be read as text: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file. NaN, repeated keys in an object, and invalid Unicode are errors.

    Raises:
        InputError: the file does not exist, is not valid JSON, or is cut off.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON, or is cut off: {error}") from error


def known_ids(ids: Sequence[Any], tokens: Tokens | None, where: str) -> tuple[int, ...]:
    """Check that token ids are integers and, if `tokens` is given, in its vocabulary.

    Args:
        ids: The ids.
        tokens: The tokenizer; None if there is none.
        where: The place in the file, for messages.

    Raises:
        PairError: an id is not.
    """
    for token in ids:
        if type(token) is not int or token < 0:
            raise PairError(
                MALFORMED,
                f"{where}: token ids are integers of at least 0, but it has {shown(token)}",
            )
        if token >= 2**63:
            raise PairError(MALFORMED, f"{where}: no vocabulary has a token id {shown(token)}")
        if tokens is not None:
            try:
                tokens.encode([token], None)
            except InputError as error:
                raise PairError(
                    OTHER_TOKENIZER, f"{where}: {error}; the file is for another tokenizer"
                ) from error
    return tuple(ids)


def shown(value: Any) -> str:
    """A value of a file for messages, cut off if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer too long to print
        return f"one {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:79]}…"


def well_formed(text: str, where: str) -> str:
    """Check that a text is valid Unicode: tokenizers reject half of a surrogate pair.

    Raises:
        PairError: it is not.
    """
    if half_pair(text) is not None:
        raise PairError(MALFORMED, f"{where} is not valid Unicode: it has half of a surrogate pair")
    return text


def with_ioi_positions(
    errors: RowErrors, pairs: Mapping[int, PromptPair], wanted: bool | None
) -> dict[int, PromptPair]:
    """Add the positions IO, S1, S1+1 and S2 to pairs that are IOI prompts.

    An IOI prompt contains its answer once and its wrong answer twice.

    Args:
        errors: Handles pairs that are not IOI prompts.
        pairs: The pairs that were read, by row number.
        wanted: True requires every pair to be an IOI prompt; None adds the positions only if all
            are; False leaves the pairs unchanged.

    Raises:
        InputError: `wanted` is True and a pair is not an IOI prompt.
    """
    if wanted is False:
        return dict(pairs)
    if wanted:
        return errors.each(pairs, _with_ioi_positions)
    try:
        return {index: _with_ioi_positions(pair) for index, pair in pairs.items()}
    except PairError:
        return dict(pairs)


def _with_ioi_positions(pair: PromptPair) -> PromptPair:
    single = len(pair.answers) == len(pair.wrong) == 1
    where = ioi_positions(pair.ids, pair.answers[0], pair.wrong[0]) if single else None
    if where is None:
        raise PairError(
            NOT_IOI,
            "it does not contain its answer once and its wrong answer twice, as IOI prompts do; "
            "its ids may be those of another tokenizer. If it is not meant as IOI, say ioi=False",
        )
    return replace(pair, positions={**where, **pair.positions})


def notes_on(pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """Notes on unusual properties of pairs made by others."""
    notes = []
    different = len({pair.ids for pair in pairs})
    if different < len(pairs):
        notes.append(f"only {different} of the {len(pairs)} clean prompts are different")
    for name in pairs[0].corrupted:
        same = sum(pair.corrupted[name].ids == pair.ids for pair in pairs)
        if same:
            notes.append(f"the corruption {name!r} changes nothing in {same} pairs")
        clashes = [index for index, pair in enumerate(pairs) if _clashes(pair, name)]
        if clashes:
            notes.append(
                f"the corruption {name!r} puts three other names in, but repeats one in "
                f"{len(clashes)} pairs, such as pair {clashes[0]}"
            )
    return tuple(notes)


def _clashes(pair: PromptPair, corruption: str) -> bool:
    """Whether all three names were replaced, but not by three different new names."""
    slots = ("IO", "S1", "S2")
    if not set(slots) <= pair.positions.keys():
        return False
    clean = [pair.ids[pair.positions[slot]] for slot in slots]
    names = [pair.corrupted[corruption].ids[pair.positions[slot]] for slot in slots]
    replaced = all(new != old for new, old in zip(names, clean, strict=True))
    return replaced and len({*names, *clean}) < 5
