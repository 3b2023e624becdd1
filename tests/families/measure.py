"""Check every family: what it is, how exact, how quick, and what each public call makes of it.

Each family is measured in a process of its own with a time limit, so that a crash or an endless
loop is a row too. The processes are forked from one that has imported everything.

    python -m tests.families.measure                     # every family, a line each
    python -m tests.families.measure LlamaForCausalLM    # some, each with its whole row
    python -m tests.families.measure --calls             # also every public call on every family
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

os.environ |= {"HF_HUB_OFFLINE": "1", "VISIT_TL_ATLAS": "memory"}
os.environ.setdefault("VISIT_TL_READOUT", "torch:256x2048")

import torch

import visit_tl as vt
from tests import tiny
from tests.families import build
from tests.families.calls import CALLS, IDS, outcome
from tests.families.rows import Row, is_raw
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import conservation as conserve

LIMIT: Final = 60
"""Seconds that one family may take."""


def measured(name: str, dtype: torch.dtype | None = None) -> Row:
    """The row of one family, in its own float32 or in another dtype.

    Returns:
        `family` and `verdict`, and where it could be opened: the facts of `vt.check`, `error` (the
        largest of all laws), `own` (the lens of the last state against the logits of the Hugging
        Face model itself), `patching` and `seconds` (of `vt.check`).
    """
    try:
        model, expected = _opened(name)
    except build.CannotBuildError as error:
        return {"family": name, "verdict": f"not built: {_one_line(error)}"}
    model = model if dtype is None else model.to(dtype)
    # Of this process alone, with one thread: whatever else the machine does meanwhile.
    start = time.process_time()
    report = vt.check(model)
    seconds = time.process_time() - start
    return {
        "family": name,
        "verdict": report.verdict,
        **{key: getattr(report, key) for key in ("norm", "positions", "attention", "mlp")},
        "blocks": report.blocks,
        "error": report.max_error,
        "own": None if expected is None or not report.exact else _own_error(model, expected),
        "patching": report.patching.partition(":")[0],
        "seconds": round(seconds, 2),
    }


def called(name: str, dtype: torch.dtype | None = None) -> Row:
    """What each public call makes of one family: `ok`, `refused: ...` or `raw: ...`."""
    try:
        model, _ = _opened(name)
    except build.CannotBuildError as error:
        return {"family": name, "not built": _one_line(error)}
    model = model if dtype is None else model.to(dtype)
    return {"family": name} | {call: outcome(CALLS[call], model) for call in CALLS}


def each(
    names: Sequence[str],
    work: Callable[[str], Row] = measured,
    *,
    at_once: int = 2,
    limit: float = LIMIT,
) -> Iterator[Row]:
    """The row of each family, in order; `at_once` processes at a time, `limit` seconds each."""
    waiting, running, done = list(names), {}, {}
    with_imports()
    for name in names:
        while name not in done:
            while waiting and len(running) < at_once:
                started = waiting.pop(0)
                running[started] = _start(started, work, limit)
            for other in list(running):
                pipe, process, end = running[other]
                if (row := _finished(other, pipe, process, end)) is not None:
                    done[other] = row
                    del running[other]
            time.sleep(0.01)
        yield done.pop(name)


def with_imports() -> None:
    """Take the cost of imports and of first calls, which is no family's own."""
    vt.check(tiny.gpt2())


def _start(name: str, work: Callable[[str], Row], limit: float) -> tuple[int, int, float]:
    """Fork a process that writes its row into a pipe: the pipe, the process and its last second."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        os.set_blocking(reading, False)
        return reading, process, time.monotonic() + limit
    os.close(reading)
    try:
        row = work(name)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raw = f"{type(error).__name__} in {where.name}: {_one_line(error)}"
        row = {"family": name, "verdict": f"raw: {raw}"}
    with os.fdopen(writing, "w") as pipe:
        json.dump(row, pipe)
    os._exit(0)


_PARTS: dict[int, bytes] = {}


def _finished(name: str, pipe: int, process: int, end: float) -> Row | None:
    """The row of a process that has ended, or that is ended here; None while it runs."""
    with suppress(BlockingIOError):
        while part := os.read(pipe, 65536):
            _PARTS[pipe] = _PARTS.get(pipe, b"") + part
    ended, status = os.waitpid(process, os.WNOHANG)
    late = not ended and time.monotonic() > end
    if not ended and not late:
        return None
    if late:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    with suppress(BlockingIOError):
        while part := os.read(pipe, 65536):
            _PARTS[pipe] = _PARTS.get(pipe, b"") + part
    os.close(pipe)
    written = _PARTS.pop(pipe, b"")
    if written:
        return json.loads(written)
    why = "it took too long" if late else f"its process ended with status {status}"
    return {"family": name, "verdict": f"raw: {why}"}


def _opened(name: str) -> tuple[Any, torch.Tensor | None]:
    """The family's bridge, and the last logits of the Hugging Face model before it became one."""
    if name == "TransformerLensNative":
        return build.bridge(name), None
    hf = build.hf_model(name)
    expected = build.own_logits(hf, IDS)[-1] if build.reads_text(hf) else None
    return build.bridge(name, hf), expected


def _own_error(model: Any, expected: torch.Tensor) -> float:
    view = ModelView(model)
    trace = Trace.run(view, view.tokens.encode(IDS, None))
    return conserve.lens_error(view, trace.layers[view.n_layers - 1].resid_post, expected)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Check every family of TransformerLens.")
    parser.add_argument("families", nargs="*", help="names of the registry; all by default")
    parser.add_argument("--calls", action="store_true", help="also every public call")
    parser.add_argument("--dtype", help="bfloat16 or float16; float32 by default")
    asked = parser.parse_args()
    names = asked.families or build.names()
    dtype = None if asked.dtype is None else getattr(torch, asked.dtype)
    if not asked.calls:
        for row in each(names, lambda name: measured(name, dtype)):
            error = "" if row.get("error") is None else f"{row['error']:.1e}"
            line = f"{row['family']:44} {error:8} {row['verdict']}"
            print(json.dumps(row) if asked.families else line, flush=True)
        return
    for row in each(names, lambda name: called(name, dtype), limit=10 * LIMIT):
        odd = {call: said for call, said in row.items() if said != "ok" and call != "family"}
        raw = {call: said for call, said in odd.items() if said.startswith("raw") or is_raw(said)}
        print(row["family"], json.dumps(odd if asked.families else raw or sorted(odd.values())[:1]))


if __name__ == "__main__":
    _main()
