"""Read prompts in the JSON format of AutoCircuit.

Source: Miller et al. 2024; github.com/UFO-101/auto-circuit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag, Model, Unusable
from visit_tl.circuits.prompts.foreign import (
    known_ids,
    notes_on,
    read_json,
    shown,
    well_formed,
    with_ioi_positions,
)
from visit_tl.circuits.prompts.pair import END, Corrupted, PromptPair, check_alone
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
from visit_tl.circuits.prompts.unusable import MALFORMED, SEVERAL_TOKENS, PairError, RowErrors
from visit_tl.circuits.prompts.year_tokens import (
    digits_note,
    split_years,
    with_digit,
    year_tokens,
)
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_KEYS = ("clean", "corrupt", "answers", "wrong_answers")


@checked
def read_auto_circuit(
    path: File,
    model: Model = None,
    *,
    ioi: Flag | None = None,
    prepend_bos: Flag | None = None,
    bos_counted: Flag | None = None,
    unusable: Unusable = "raise",
) -> PromptSet:
    """Read prompts from AutoCircuit's JSON: `prompts`, and optionally `word_idxs` and `seq_labels`.

    The only corruption is called `corrupt`, as in the file. The file's own positions (`word_idxs`)
    keep their names, except `end`, which becomes END. Some files count a BOS in these positions and
    some do not. Which one it is follows from the value of `end`, or, without `end`, from the number
    of `seq_labels`.

    Args:
        path: The JSON file.
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers; None if the
            file's prompts are lists of token ids.
        ioi: Whether to find the positions IO, S1, S1+1 and S2 in the tokens. True requires them in
            every prompt; None uses them if every prompt has them and no positions are taken from
            the file.
        prepend_bos: Whether to prepend a BOS; None is the model's own default. AutoCircuit does by
            default.
        bos_counted: Whether `word_idxs` counts a BOS, for files that do not show it.
        unusable: How to treat pairs that cannot be used with this tokenizer: `raise` raises an
            error, `skip` leaves them out and lists them in `report.unusable`. `skip` also drops
            the file's positions, with a note, if they do not fit this tokenizer.

    Returns:
        The prompts, in the order of the file; `report.notes` says what is unusual about them.

    Raises:
        InputError: the file is missing, cut off or has another format; an answer is not one token;
            the prompts of a pair have different lengths; or a position is outside the prompts. With
            `skip`, only if the file cannot be read or no pair can be used.
    """
    path = Path(path)
    errors = RowErrors(path, unusable)
    data = read_json(path)
    rows = data.get("prompts") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f"{path} has no list of 'prompts'; AutoCircuit's files are "
            f'{{"prompts": [{{"clean", "corrupt", "answers", "wrong_answers"}}, ...]}}'
        )
    tokens = None if model is None else open_tokens(model)
    errors.begin({index: _text(row) for index, row in enumerate(rows)})
    digits = _digit_ids(tokens) if any(map(_has_year_answers, rows)) else ()

    def parse(row: Any) -> tuple[PromptPair, bool]:
        if tokens is not None and digits and _has_year_answers(row):
            pair, has_bos = _year_pair(tokens, digits, row, prepend_bos)
        else:
            pair, has_bos = _pair(tokens, row, prepend_bos)
        check_alone(pair)
        return pair, has_bos

    read = errors.each(dict(enumerate(rows)), parse)
    split = next(iter(read.values()))[0].first is not None
    read = errors.each(read, lambda each: _require_split(each, split))
    pairs = {index: pair for index, (pair, _) in read.items()}
    notes: tuple[str, ...] = ()
    if data.get("word_idxs"):
        try:
            pairs = _with_file_positions(path, data, read, bos_counted)
            ioi = False if ioi is None else ioi
        except InputError as error:
            if not errors.skips:
                raise InputError(f"{error}. unusable='skip' reads it without them") from error
            notes = (f"the positions of the file were left out: {error}",)
    found = tuple(with_ioi_positions(errors, pairs, ioi).values())
    if tokens is not None and any(pair.first for pair in found):
        notes = (*notes, digits_note(tokens))
    eos = None if tokens is None else tokens.eos
    return PromptSet(
        found,
        "token ids" if tokens is None else name_of(tokens),
        "ioi" if "IO" in found[0].positions else path.stem,
        0 if eos is None else eos,
        errors.report(Report(notes=(*notes, *notes_on(found)))),
    )


def _text(row: Any) -> str:
    """The clean prompt of a row, for messages; empty if it has none."""
    clean = row.get("clean") if isinstance(row, dict) else None
    return clean if isinstance(clean, str) else ""


def _pair(tokens: Tokens | None, row: Any, prepend_bos: bool | None) -> tuple[PromptPair, bool]:
    """Read a pair; also return whether a BOS was prepended."""
    if not isinstance(row, dict) or any(key not in row for key in _KEYS):
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise PairError(MALFORMED, f"it has {got}; expected {', '.join(_KEYS)}")
    text, ids, has_bos = _prompt(tokens, "'clean'", row["clean"], prepend_bos)
    other_text, other_ids, _ = _prompt(tokens, "'corrupt'", row["corrupt"], prepend_bos)
    pair = PromptPair(
        text=text,
        ids=ids,
        answers=_answers(tokens, "'answers'", row["answers"]),
        wrong=_answers(tokens, "'wrong_answers'", row["wrong_answers"]),
        positions={END: len(ids) - 1},
        corrupted={"corrupt": Corrupted(other_text, other_ids)},
    )
    return pair, has_bos


def _has_year_answers(row: Any) -> bool:
    """Whether the answers of a row are the two digits of years, as in greater-than."""
    lists = [row.get(key) for key in ("answers", "wrong_answers")] if isinstance(row, dict) else []
    return bool(lists) and all(
        isinstance(each, list)
        and each
        and all(isinstance(text, str) and re.fullmatch("[0-9]{2}", text) for text in each)
        for each in lists
    )


def _digit_ids(tokens: Tokens | None) -> tuple[int, ...]:
    """The ids of 0 to 9, if the tokenizer writes years digit by digit; else empty."""
    try:
        return () if tokens is None else year_tokens(tokens).digits
    except InputError:
        return ()


def _year_pair(
    tokens: Tokens, digits: tuple[int, ...], row: dict[str, Any], prepend_bos: bool | None
) -> tuple[PromptPair, bool]:
    """Read a pair whose answers are years that the tokenizer writes digit by digit."""
    answers, wrong, first = split_years(
        digits, {int(text) for text in row["answers"]}, {int(text) for text in row["wrong_answers"]}
    )
    digit = str(digits.index(first.token))
    longer = {
        key: with_digit(tokens, well_formed(row[key], repr(key)), prepend_bos, digit, first.token)[
            0
        ]
        for key in ("clean", "corrupt")
        if isinstance(row.get(key), str)
    }
    ids = {"answers": list(answers), "wrong_answers": list(wrong)}
    pair, has_bos = _pair(tokens, {**row, **longer, **ids}, prepend_bos)
    return replace(pair, first=first), has_bos


def _require_split(each: tuple[PromptPair, bool], split: bool) -> tuple[PromptPair, bool]:
    if (each[0].first is not None) != split:
        raise PairError(
            MALFORMED,
            f"its answers have {1 if split else 2} tokens, but those of the first pair have "
            f"{2 if split else 1}; split the file",
        )
    return each


def _prompt(
    tokens: Tokens | None, where: str, prompt: Any, prepend_bos: bool | None
) -> tuple[str, tuple[int, ...], bool]:
    if isinstance(prompt, str) and tokens is not None:
        encoded = tokens.encode(well_formed(prompt, where), prepend_bos)
        return prompt, encoded.ids, encoded.prepend_bos
    if isinstance(prompt, str):
        raise PairError(
            MALFORMED, f"{where} is text, {prompt!r}, and needs the tokenizer; pass a model"
        )
    if not isinstance(prompt, list) or not prompt:
        raise PairError(
            MALFORMED,
            f"{where}: a prompt is text or a list of token ids; got {shown(prompt)}",
        )
    ids = known_ids(prompt, tokens, where)
    return " ".join(map(str, ids)), ids, False


def _answers(tokens: Tokens | None, where: str, answers: Any) -> tuple[int, ...]:
    if not isinstance(answers, list):
        raise PairError(MALFORMED, f"{where}: expected a list of answers; got {shown(answers)}")
    ids: list[int] = []
    for answer in answers:
        if isinstance(answer, list):
            raise PairError(
                MALFORMED,
                f"{where} has an answer for each of several positions, {shown(answer)}; only "
                f"prompts whose next token is the answer can be read",
            )
        if isinstance(answer, str):
            if tokens is None:
                raise PairError(
                    MALFORMED, f"{where} has the text {answer!r}; pass a model to tokenise it"
                )
            try:
                answer = tokens.single(well_formed(answer, where))
            except PairError:
                raise
            except InputError as error:
                raise PairError(SEVERAL_TOKENS, f"{where}: {error}") from error
        ids.extend(known_ids([answer], tokens, where))
    return tuple(ids)


def _with_file_positions(
    path: Path,
    data: Mapping[str, Any],
    read: Mapping[int, tuple[PromptPair, bool]],
    bos_counted: bool | None,
) -> dict[int, PromptPair]:
    """The pairs with the positions that the file names.

    Raises:
        InputError: they do not fit the prompts, or it is not known whether they count a BOS.
    """
    named = data["word_idxs"]
    shift = _shift(path, data, list(read.values()), bos_counted)
    return {index: _with_positions(path, pair, named, shift) for index, (pair, _) in read.items()}


def _shift(
    path: Path,
    data: Mapping[str, Any],
    read: Sequence[tuple[PromptPair, bool]],
    bos_counted: bool | None,
) -> int:
    """Position in our tokens minus position in the file: -1, 0 or 1, for a BOS."""
    named, labels = data["word_idxs"], data.get("seq_labels")
    if not isinstance(named, dict) or any(type(at) is not int or at < 0 for at in named.values()):
        raise InputError(
            f"{path}: word_idxs names token positions, counted from 0; got {shown(named)}"
        )
    # A first digit of the answer that was appended to the prompt is not counted in the file.
    lengths = {len(pair.ids) - (pair.first is not None) for pair, _ in read}
    if len(lengths) > 1:
        raise InputError(
            f"{path}: word_idxs holds for prompts of one length, but its prompts have "
            f"{sorted(lengths)} tokens of this tokenizer"
        )
    length, has_bos = lengths.pop(), read[0][1]
    if bos_counted is not None:
        return int(has_bos) - int(bos_counted)
    if "end" in named:
        shift, what = length - 1 - named["end"], f"puts the end at {named['end']}"
    elif isinstance(labels, list) and labels:
        shift, what = length - len(labels), f"has {len(labels)} seq_labels"
    else:
        raise InputError(
            f"{path} does not tell whether its word_idxs count a BOS (it has neither 'end' nor "
            f"seq_labels); say bos_counted=True or False"
        )
    if shift not in (int(has_bos), int(has_bos) - 1):
        raise InputError(
            f"{path} {what}, but its prompts have {length} tokens of this tokenizer"
            f"{', BOS counted' if has_bos else ''}; its positions are for another tokenizer"
        )
    return shift


def _with_positions(
    path: Path, pair: PromptPair, named: Mapping[str, int], shift: int
) -> PromptPair:
    last = len(pair.ids) - 1 - (pair.first is not None)
    # A position at the file's BOS is dropped if no BOS was prepended.
    moved = {name: at + shift for name, at in named.items() if at + shift >= 0}
    if any(at > last for at in moved.values()) or moved.get("end", last) != last:
        raise InputError(
            f"{path}: with the BOS taken into account its positions are {shown(moved)}, which do "
            f"not fit prompts of {last + 1} tokens; check bos_counted"
        )
    kept = {name: at for name, at in moved.items() if name != "end"}
    return replace(pair, positions={**kept, **pair.positions})
