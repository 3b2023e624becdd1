"""Prompts in the JSON of AutoCircuit (Miller et al. 2024; github.com/UFO-101/auto-circuit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag, Model
from visit_tl.circuits.prompts.foreign import known_ids, notes_on, read_json, with_ioi_positions
from visit_tl.circuits.prompts.pair import END, Corrupted, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
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
) -> PromptSet:
    """Read prompts from AutoCircuit's JSON: `prompts`, and perhaps `word_idxs` and `seq_labels`.

    Its one corruption is called `corrupt`, as in the file. The file's own positions (`word_idxs`)
    keep their names but for `end`, which is END. Some of its files count a BOS there and some do
    not; what counts is where `end` is, else how many `seq_labels` there are.

    Args:
        path: The JSON.
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers; None if the
            file's prompts are lists of token ids.
        ioi: Whether the positions IO, S1, S1+1 and S2 are looked for in the tokens; True insists,
            None takes them if every prompt has them and the file names no positions.
        prepend_bos: Whether a BOS is put first; None is the model's own default. AutoCircuit's
            default puts one.
        bos_counted: Whether `word_idxs` counts a BOS, for files that do not tell.

    Returns:
        The prompts, in the order of the file; `report.notes` says what is odd about them.

    Raises:
        InputError: the file is missing, cut off or of another shape; an answer is not one token; a
            pair is of unequal lengths; a position is not in the prompts.
    """
    path = Path(path)
    data = read_json(path)
    rows = data.get("prompts") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f"{path} has no list of 'prompts'; AutoCircuit's files are "
            f'{{"prompts": [{{"clean", "corrupt", "answers", "wrong_answers"}}, ...]}}'
        )
    tokens = None if model is None else open_tokens(model)
    read = [
        _pair(tokens, f"pair {index} of {path}", row, prepend_bos) for index, row in enumerate(rows)
    ]
    pairs = [pair for pair, _ in read]
    named = data.get("word_idxs")
    if named:
        shift = _shift(path, data, read, bos_counted)
        pairs = [_with_positions(path, pair, named, shift) for pair in pairs]
    found = with_ioi_positions(pairs, False if named and ioi is None else ioi)
    eos = None if tokens is None else tokens.eos
    return PromptSet(
        found,
        "token ids" if tokens is None else name_of(tokens),
        "ioi" if "IO" in found[0].positions else path.stem,
        0 if eos is None else eos,
        Report(notes=notes_on(found)),
    )


def _pair(
    tokens: Tokens | None, where: str, row: Any, prepend_bos: bool | None
) -> tuple[PromptPair, bool]:
    """A pair, and whether a BOS was put before it."""
    if not isinstance(row, dict) or any(key not in row for key in _KEYS):
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise InputError(f"{where} has {got}; expected {', '.join(_KEYS)}")
    text, ids, has_bos = _prompt(tokens, f"{where}, 'clean'", row["clean"], prepend_bos)
    other_text, other_ids, _ = _prompt(tokens, f"{where}, 'corrupt'", row["corrupt"], prepend_bos)
    pair = PromptPair(
        text=text,
        ids=ids,
        answers=_answers(tokens, f"{where}, 'answers'", row["answers"]),
        wrong=_answers(tokens, f"{where}, 'wrong_answers'", row["wrong_answers"]),
        positions={END: len(ids) - 1},
        corrupted={"corrupt": Corrupted(other_text, other_ids)},
    )
    return pair, has_bos


def _prompt(
    tokens: Tokens | None, where: str, prompt: Any, prepend_bos: bool | None
) -> tuple[str, tuple[int, ...], bool]:
    if isinstance(prompt, str) and tokens is not None:
        encoded = tokens.encode(prompt, prepend_bos)
        return prompt, encoded.ids, encoded.prepend_bos
    if isinstance(prompt, str):
        raise InputError(f"{where} is text, {prompt!r}, and needs the tokenizer; pass a model")
    if not isinstance(prompt, list) or not prompt:
        raise InputError(f"{where}: a prompt is text or a list of token ids; got {prompt!r}")
    ids = known_ids(prompt, tokens, where)
    return " ".join(map(str, ids)), ids, False


def _answers(tokens: Tokens | None, where: str, answers: Any) -> tuple[int, ...]:
    if not isinstance(answers, list):
        raise InputError(f"{where}: expected a list of answers; got {answers!r}")
    ids: list[int] = []
    for answer in answers:
        if isinstance(answer, list):
            raise InputError(
                f"{where} has an answer for each of several positions, {answer!r}; only prompts "
                f"whose next token is the answer can be read"
            )
        if isinstance(answer, str):
            if tokens is None:
                raise InputError(f"{where} has the text {answer!r}; pass a model to tokenise it")
            try:
                answer = tokens.single(answer)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        ids.extend(known_ids([answer], tokens, where))
    return tuple(ids)


def _shift(
    path: Path,
    data: Mapping[str, Any],
    read: Sequence[tuple[PromptPair, bool]],
    bos_counted: bool | None,
) -> int:
    """How much later a position is in our tokens than in the file: one BOS at most."""
    named, labels = data["word_idxs"], data.get("seq_labels")
    if not isinstance(named, dict) or any(type(at) is not int or at < 0 for at in named.values()):
        raise InputError(f"{path}: word_idxs names token positions, counted from 0; got {named!r}")
    lengths = {len(pair.ids) for pair, _ in read}
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
    # What the file has at its BOS is nowhere where no BOS was put.
    moved = {
        END if name == "end" else name: at + shift for name, at in named.items() if at + shift >= 0
    }
    outside = {name: at for name, at in moved.items() if at >= len(pair.ids)}
    if outside or moved.get(END, len(pair.ids) - 1) != len(pair.ids) - 1:
        raise InputError(
            f"{path}: with the BOS taken into account its positions are {moved}, which do not fit "
            f"prompts of {len(pair.ids)} tokens; check bos_counted"
        )
    return replace(pair, positions={**moved, **pair.positions})
