"""Measure studies on prompts: passes in batches of one length, readouts of many vectors at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from visit_tl.errors import InputError, VisitError
from visit_tl.lens.readout import Readout, read
from visit_tl.lens.top_tokens import top_ids
from visit_tl.model.last_logits import batches
from visit_tl.sweeps.prompt_run import OtherPrompt, PromptRun, SweptModel, Wanted
from visit_tl.sweeps.registry import Study

Columns = Mapping[str, np.ndarray]
_VECTORS: Final = 4096
"""Vectors that are read together; 2,048 of SmolLM2-135M take 5 MB."""
Key = tuple[int, int, bool, int]
"""The id of a stack of vectors, the number of top tokens, whether all of a readout is wanted, and
the id of the targets."""


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
    """The passes of prompts of one length; if they fail together, one at a time."""
    rows = [(p.index, p.token_ids, p.target, p.text) for p in prompts]
    try:
        runs = swept.passes(rows)
    except Exception as error:  # one prompt may break the run of all
        if len(rows) == 1:
            found.errors.append((prompts[0].index, "", _reason(error)))
            return
        for prompt in prompts:
            yield from _runs(swept, [prompt], found)
        return
    for run in runs:
        if bool(torch.isfinite(run.logits).all()):
            yield run
        else:
            found.errors.append((run.index, "", "the logits of the model are not finite"))


def _measure_runs(runs: Sequence[PromptRun], studies: Sequence[Study], found: Measured) -> None:
    asking: list[tuple[Study, PromptRun, Generator[Any, Any, Any], Any]] = []
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


def _answer(asking: list[tuple[Study, PromptRun, Any, Any]], found: Measured) -> None:
    """Read what studies asked for, and go on until all have ended."""
    while asking:
        some, asking[:] = list(asking), []
        read_as = _read(some)
        for (study, run, generator, _), readouts in zip(some, read_as, strict=True):
            _step(study, run, generator, readouts, asking, found)


def _size(asked: Any) -> int:
    """How many vectors are to be read."""
    parts = asked if isinstance(asked, tuple) else (asked,)
    return sum(p.vectors[..., 0].numel() for p in parts if isinstance(p, Wanted))


def _step(
    study: Study,
    run: PromptRun,
    generator: Generator[Any, Any, Any] | None,
    readouts: Any,
    asking: list[Any],
    found: Measured,
) -> None:
    """Start a study of a prompt, or go on with it, until it asks for readouts or ends."""
    try:
        if generator is None:
            made = study(run)
            if not isinstance(made, Generator):
                found.tables[study.name][run.index] = _columns(study, made)
                return
            generator, asked = made, next(made)
        else:
            asked = generator.send(readouts)
        asking.append((study, run, generator, asked))
    except StopIteration as end:
        _keep(study, run, end.value, found)
    except VisitError as error:
        found.errors.append((run.index, study.name, _reason(error)))


def _keep(study: Study, run: PromptRun, made: Any, found: Measured) -> None:
    try:
        found.tables[study.name][run.index] = _columns(study, made)
    except VisitError as error:
        found.errors.append((run.index, study.name, _reason(error)))


def _read(asking: Sequence[tuple[Study, PromptRun, Any, Any]]) -> list[Any]:
    """What studies asked for; the same stack of a prompt is read once."""
    wanted: dict[Key, tuple[PromptRun, Wanted]] = {}
    others: dict[Key, tuple[PromptRun, OtherPrompt]] = {}
    keys: list[list[Key]] = []
    for study, run, _, asked in asking:
        own: list[Key] = []
        for one in asked if isinstance(asked, tuple) else (asked,):
            if isinstance(one, Wanted):
                own.append((id(one.vectors), one.k, one.whole, id(one.targets)))
                wanted[own[-1]] = run, one
            elif isinstance(one, OtherPrompt):
                own.append((id(one), 0, False, 0))
                others[own[-1]] = run, one
            else:
                raise InputError(
                    f"the study {study.name} yields {type(one).__name__}; a study yields "
                    f"run.top(vectors), run.read(vectors) or run.other(token_ids), or a tuple of "
                    f"them"
                )
        keys.append(own)
    done: dict[Key, Any] = _other_runs(others)
    for k, whole in sorted({key[1:3] for key in wanted}):
        waiting: list[tuple[Key, PromptRun, Wanted]] = []
        size = 0
        for key, (run, one) in wanted.items():
            if key[1:3] != (k, whole):
                continue
            waiting.append((key, run, one))
            size += _size(one)
            if size >= _VECTORS:
                _read_together(waiting, k, whole, done)
                waiting, size = [], 0
        if waiting:
            _read_together(waiting, k, whole, done)
    return [
        tuple(done[key] for key in own) if isinstance(asked, tuple) else done[own[0]]
        for own, (_, _, _, asked) in zip(keys, asking, strict=True)
    ]


def _other_runs(others: Mapping[Key, tuple[PromptRun, OtherPrompt]]) -> dict[Key, PromptRun]:
    """The runs of other prompts that studies asked for, in batches of one length."""
    keys = list(others)
    done: dict[Key, PromptRun] = {}
    for part in batches([len(others[key][1].token_ids) for key in keys]):
        asked = [others[keys[i]] for i in part]
        runs = asked[0][0].swept.passes(
            [(run.index, one.token_ids, None, "") for run, one in asked]
        )
        done |= zip((keys[i] for i in part), runs, strict=True)
    return done


def _read_together(
    waiting: Sequence[tuple[Key, PromptRun, Wanted]], k: int, whole: bool, done: dict[Key, Any]
) -> None:
    rows = [one.vectors.reshape(-1, one.vectors.shape[-1]).float() for _, _, one in waiting]
    view, stack, sizes = waiting[0][1].view, torch.cat(rows), [len(part) for part in rows]
    if whole:
        targets = [
            torch.full((n, 1), run.target) if one.targets is None else one.targets.reshape(n, 1)
            for n, (_, run, one) in zip(sizes, waiting, strict=True)
        ]
        out = read(view, stack, torch.cat(targets), k=k)
        columns = zip(*(getattr(out, f.name).split(sizes) for f in fields(Readout)), strict=True)
        parts: Any = (Readout(*part) for part in columns)
    else:
        parts = top_ids(view, stack, k).split(sizes)
    done |= {key: part for (key, _, _), part in zip(waiting, parts, strict=True)}


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
        values = made[name]
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        array = np.asarray(values, dtype=object if kind == "string" else kind)
        if array.ndim != 1:
            raise InputError(
                f"the column {name} of {study.name} has {array.ndim} axes; rows are a list"
            )
        found[name] = array
    if len(lengths := {len(array) for array in found.values()}) > 1:
        raise InputError(f"the columns of {study.name} have different lengths, {sorted(lengths)}")
    return found


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, VisitError) else f"{type(error).__name__}: {text}"
