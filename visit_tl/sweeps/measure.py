"""Measure studies on prompts: passes in batches of one length, readouts of many vectors at once."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from visit_tl.errors import InputError, ModelError, VisitError
from visit_tl.lens.readout import read, read_targets
from visit_tl.lens.top_tokens import top_ids
from visit_tl.model.last_logits import batches
from visit_tl.sweeps.prompt_run import OtherPrompt, PromptRun, SweptModel, Wanted
from visit_tl.sweeps.registry import Study

Columns = Mapping[str, np.ndarray]
_VECTORS: Final = 4096
"""Vectors that are read together; 2,048 of SmolLM2-135M take 5 MB."""
Key = tuple[int, int, bool, Hashable]
"""The id of a stack of vectors, the number of top tokens, whether all of a readout is wanted, and
whose targets these are."""
_OTHER: Final = "other prompt"
Asking = tuple[Study, PromptRun, Generator[Any, Any, Any], Any]
"""A study of a prompt that waits for what it asked for."""
Waiting = tuple[Key, PromptRun, Wanted]
Row = tuple[int, tuple[int, ...], int | None, str]
"""The index of a prompt, its tokens, its target and its text, as `SweptModel.passes` takes it."""


@dataclass
class Known:
    """What was read so far for prompts whose studies have not ended.

    Attributes:
        read: What came of each stack.
        held: What was asked. As long as it is held, no other stack can have the same id.
    """

    read: dict[Key, Any] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class SweptPrompt:
    """A prompt of a sweep, tokenised.

    Attributes:
        index: Its place in the file.
        text: The prompt.
        token_ids: Its tokens; empty if it is broken.
        target: The id of the target; None is the model's own prediction.
        error: Why it is broken; None if it is not.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    target: int | None = None
    error: str | None = None


@dataclass
class Measured:
    """The rows of some prompts.

    Attributes:
        tables: By study, by prompt, the columns of its rows.
        errors: Why a prompt, or a study of it, has no rows: (prompt, study or "", reason).
        seen: By prompt that was run: the target, whether it was given, the model's prediction, and
            whether it was measured.
    """

    tables: dict[str, dict[int, Columns]] = field(default_factory=dict)
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    seen: dict[int, tuple[int, bool, int, bool]] = field(default_factory=dict)


def measure(
    swept: SweptModel,
    prompts: Sequence[SweptPrompt],
    studies: Sequence[Study],
    *,
    only: str | None = None,
) -> Measured:
    """Measure studies on prompts; a prompt that fails leaves an error, and the others go on.

    Args:
        swept: The model.
        prompts: The prompts.
        studies: The studies.
        only: `correct` measures only the prompts whose target the model predicts.
    """
    found = Measured({study.name: {} for study in studies})
    found.errors += [(p.index, "", p.error) for p in prompts if p.error is not None]
    whole = [p for p in prompts if p.error is None]
    for part in batches([len(p.token_ids) for p in whole]):
        runs = []
        for run in _runs(swept, [whole[i] for i in part], found):
            kept = only is None or run.predicted == run.target
            found.seen[run.index] = run.target, run.target_given, run.predicted, kept
            runs += [run] if kept else []
        _measure_runs(runs, studies, found)
    return found


def _runs(
    swept: SweptModel, prompts: Sequence[SweptPrompt], found: Measured
) -> Iterator[PromptRun]:
    """The passes of prompts of one length that gave numbers."""
    rows = [(p.index, p.token_ids, p.target, p.text) for p in prompts]
    for (index, _, _, _), run in zip(rows, _passes(swept, rows), strict=True):
        if isinstance(run, PromptRun):
            yield run
        else:
            found.errors.append((index, "", _reason(run)))


def _passes(swept: SweptModel, rows: Sequence[Row]) -> list[PromptRun | Exception]:
    """The passes of prompts of one length, or why there is none; one may fail, not its mates."""
    try:
        runs = swept.passes(rows)
    except Exception as error:
        if isinstance(error, ModelError) or _of_the_machine(error):
            raise
        if len(rows) == 1:
            return [error]
        return [one for row in rows for one in _passes(swept, [row])]
    finite = [bool(torch.isfinite(run.logits).all()) for run in runs]
    pairs = zip(runs, finite, strict=True)
    return [
        run if ok else InputError("the logits of the model are not finite") for run, ok in pairs
    ]


def _of_the_machine(error: Exception) -> bool:
    """Whether an error says nothing of the prompt, and would be that of all that follow."""
    lost = "CUDA error" in str(error) and not isinstance(error, torch.cuda.OutOfMemoryError)
    return isinstance(error, MemoryError) or lost


def _measure_runs(runs: Sequence[PromptRun], studies: Sequence[Study], found: Measured) -> None:
    asking: list[Asking] = []
    size = 0
    for i, run in enumerate(runs):
        first = len(asking)
        for study in studies:
            _step(study, run, None, None, asking, found)
        size += sum(_size(asked) for _, _, _, asked in asking[first:])
        # All memory values of a batch at once can take gigabytes.
        if size >= _VECTORS or i == len(runs) - 1:
            _answer(asking, found)
            size = 0


def _answer(asking: list[Asking], found: Measured) -> None:
    """Read what studies asked for, and go on until all have ended."""
    known = Known()
    while asking:
        some, asking[:] = list(asking), []
        for (study, run, generator, _), answer in zip(some, _answers(some, known), strict=True):
            _step(study, run, generator, answer, asking, found)


def _size(asked: Any) -> int:
    """How many vectors are to be read."""
    parts = asked if isinstance(asked, tuple) else (asked,)
    return sum(p.vectors[..., 0].numel() for p in parts if isinstance(p, Wanted))


def _step(
    study: Study,
    run: PromptRun,
    generator: Generator[Any, Any, Any] | None,
    answer: Any,
    asking: list[Asking],
    found: Measured,
) -> None:
    """Start a study of a prompt, or go on with it, until it asks for something or ends.

    Whatever a study raises is an error of this prompt.
    """
    try:
        try:
            if generator is None:
                made = study(run)
                if not isinstance(made, Generator):
                    found.tables[study.name][run.index] = _columns(study, made)
                    return
                generator, asked = made, next(made)
            else:
                parts = answer if isinstance(answer, tuple) else (answer,)
                failed = next((part for part in parts if isinstance(part, Exception)), None)
                asked = generator.send(answer) if failed is None else generator.throw(failed)
        except StopIteration as end:
            found.tables[study.name][run.index] = _columns(study, end.value)
            return
        _check_asked(study, run, asked)
        asking.append((study, run, generator, asked))
    except Exception as error:
        if _of_the_machine(error):
            raise
        found.errors.append((run.index, study.name, _reason(error)))


def _check_asked(study: Study, run: PromptRun, asked: Any) -> None:
    """Check what a study yields.

    Raises:
        InputError: it is nothing that can be answered.
    """
    for one in asked if isinstance(asked, tuple) else (asked,):
        if isinstance(one, OtherPrompt):
            run.view.tokens.encode(list(one.token_ids), None)
        elif not isinstance(one, Wanted):
            raise InputError(
                f"the study {study.name} yields {type(one).__name__}; a study yields "
                f"run.top(vectors), run.read(vectors) or run.other(token_ids), or a tuple of them"
            )
        elif not isinstance(one.vectors, Tensor) or one.vectors.shape[-1:] != (run.view.d_model,):
            got = getattr(one.vectors, "shape", type(one.vectors).__name__)
            raise InputError(
                f"the study {study.name} has {got} read; vectors are a tensor [..., "
                f"{run.view.d_model}]"
            )


def _answers(asking: Sequence[Asking], known: Known) -> list[Any]:
    """What studies asked for; the same stack of a prompt is read once, whoever asks, and when."""
    wanted: dict[Key, tuple[PromptRun, Wanted]] = {}
    others: dict[Key, tuple[PromptRun, OtherPrompt]] = {}
    keys: list[list[Key]] = []
    for _, run, _, asked in asking:
        own: list[Key] = []
        for one in asked if isinstance(asked, tuple) else (asked,):
            if isinstance(one, OtherPrompt):
                own.append((id(one), 0, False, _OTHER))
                others[own[-1]] = run, one
            else:
                own.append(_key(run, one))
                wanted[own[-1]] = run, one
        keys.append(own)
    done = known.read
    done |= _other_runs(others)
    parts: dict[Key, tuple[Key, Tensor]] = {}
    for key, (_, one) in wanted.items():
        if (part := _part_of(one)) is not None and (part[0] in done or part[0] in wanted):
            parts[key] = part
    for k, whole in sorted({key[1:3] for key in wanted}):
        waiting: list[Waiting] = []
        size = 0
        for key, (run, one) in wanted.items():
            if key[1:3] != (k, whole) or key in parts or key in done:
                continue
            waiting.append((key, run, one))
            size += _size(one)
            if size >= _VECTORS:
                done |= _read_together(waiting, k, whole)
                waiting, size = [], 0
        if waiting:
            done |= _read_together(waiting, k, whole)
    for key, (stack, place) in parts.items():
        done[key] = rows if isinstance(rows := done[stack], Exception) else rows[place]
    known.held += [one for _, _, _, one in asking]
    return [
        tuple(done[key] for key in own) if isinstance(asked, tuple) else done[own[0]]
        for own, (_, _, _, asked) in zip(keys, asking, strict=True)
    ]


def _key(run: PromptRun, one: Wanted) -> Key:
    # A stack that runs share, such as one of weights, has another target in each.
    whose = ("run", run.index) if one.targets is None else ("given", id(one.targets))
    return id(one.vectors), one.k, one.whole, whose if one.whole else None


def _part_of(one: Wanted) -> tuple[Key, Tensor] | None:
    """The stack that vectors are rows of, by its key, and their places; None if it is not known."""
    if one.whole or one.rows_of is None:
        return None
    made, name, place = one.rows_of
    stack = made.get(name)
    return None if stack is None else ((id(stack), one.k, False, None), place.reshape(-1))


def _other_runs(others: Mapping[Key, tuple[PromptRun, OtherPrompt]]) -> dict[Key, Any]:
    """The runs of other prompts that studies asked for, in batches of one length."""
    keys = list(others)
    done: dict[Key, Any] = {}
    for part in batches([len(others[key][1].token_ids) for key in keys]):
        asked = [others[keys[i]] for i in part]
        rows: list[Row] = [(run.index, one.token_ids, None, "") for run, one in asked]
        done |= zip((keys[i] for i in part), _passes(asked[0][0].swept, rows), strict=True)
    return done


def _read_together(waiting: Sequence[Waiting], k: int, whole: bool) -> dict[Key, Any]:
    """The readouts of some stacks; if they fail together, each by itself, or its error."""
    try:
        parts = _readouts(waiting, k, whole)
    except Exception as error:
        if _of_the_machine(error):
            raise
        if len(waiting) == 1:
            return {waiting[0][0]: error}
        return {key: x for one in waiting for key, x in _read_together([one], k, whole).items()}
    return {key: part for (key, _, _), part in zip(waiting, parts, strict=True)}


def _readouts(waiting: Sequence[Waiting], k: int, whole: bool) -> list[Any]:
    rows = [one.vectors.reshape(-1, one.vectors.shape[-1]).float() for _, _, one in waiting]
    view, stack, sizes = waiting[0][1].view, torch.cat(rows), [len(part) for part in rows]
    if not whole:
        return list(top_ids(view, stack, k).split(sizes))
    targets = [
        torch.full((n, 1), run.target) if one.targets is None else one.targets.reshape(n, 1)
        for n, (_, run, one) in zip(sizes, waiting, strict=True)
    ]
    every = torch.cat(targets)
    out = read(view, stack, every, k=k) if k else read_targets(view, stack, every)
    columns = zip(*(getattr(out, f.name).split(sizes) for f in fields(out)), strict=True)
    return [type(out)(*part) for part in columns]


def _columns(study: Study, made: Any) -> Columns:
    """The columns of a study's rows, as NumPy arrays of their types.

    Raises:
        InputError: a column is missing, unknown, or of another length or type.
    """
    if not isinstance(made, Mapping) or set(made) != set(study.columns):
        names = sorted(map(str, made)) if isinstance(made, Mapping) else type(made).__name__
        raise InputError(
            f"the study {study.name} gave {names}, not the columns {sorted(study.columns)}"
        )
    found: dict[str, np.ndarray] = {}
    for name, kind in study.columns.items():
        found[name] = _column(made[name], kind, f"the column {name} of {study.name}")
    if len(lengths := {len(array) for array in found.values()}) > 1:
        raise InputError(f"the columns of {study.name} have different lengths, {sorted(lengths)}")
    return found


_FROM: Final = {"int64": "bi", "float64": "biuf", "bool": "b"}
"""The kinds of NumPy whose values a column takes as they are."""


def _column(values: Any, kind: str, what: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    array = np.asarray(values, dtype=object if kind == "string" else None)
    if array.ndim != 1:
        raise InputError(f"{what} has {array.ndim} axes; rows are a list")
    if kind == "string":
        if odd := [x for x in array if x is not None and not isinstance(x, str)]:
            raise InputError(f"{what} holds {type(odd[0]).__name__}, not texts")
        return array
    if array.dtype == object and kind == "float64":
        array = np.array([np.nan if x is None else x for x in array])
    if len(array) and array.dtype.kind not in _FROM[kind]:
        raise InputError(f"{what} holds {array.dtype}, not {kind}")
    return array.astype(kind)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, VisitError) else f"{type(error).__name__}: {text}"
