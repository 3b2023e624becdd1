"""The Python that makes what the explorer shows, as text: public calls only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visit_tl.explorer.requests import Request
from visit_tl.explorer.spans import spans


def code(runs: Sequence[Request], recipes: Sequence[str], *, same_target: bool = True) -> str:
    """A script that makes the graphs of one or two runs and, of two, compares them.

    Args:
        runs: The requests.
        recipes: How each model is opened: an expression.
        same_target: Whether the second graph follows the target of the first.
    """
    return "\n".join(
        line for cell in cells(runs, recipes, same_target=same_target) for line in cell
    )


def cells(
    runs: Sequence[Request], recipes: Sequence[str], *, same_target: bool = True
) -> list[list[str]]:
    """The same, divided as the cells of a notebook."""
    opened = ["import visit_tl as vt", ""]
    used = sorted({run.model for run in runs})
    names = {i: "model" if i == used[0] else "other_model" for i in used}
    for i in used:
        known = recipes[i] not in ("model", "other_model")
        opened.append(f"{names[i]} = {recipes[i]}" if known else f"# {names[i]}: the model itself")
    found = [opened]
    graphs = ("g", "h")
    for i, run in enumerate(runs):
        follow = "g.target_id" if i == 1 and same_target and not run.target else None
        found.append(_one(run, names[run.model], graphs[i], follow))
    if len(runs) == 1:
        found.append(["g"])
    elif same_target:
        found.append(["print(g.diff(h).text())"])
    else:
        found += [["g"], ["h"]]
    return found


def _one(run: Request, model: str, name: str, follow: str | None) -> list[str]:
    if run.saved is not None:
        return [f'{name} = vt.FlowGraph.load("graph.json")  # the file that was opened']
    lines, prompt = [], repr(run.prompt)
    bos = run.bos
    if run.chat:
        lines += _chat_function(model)
        prompt, bos = f"chat({prompt})", False
    lines.append(f"prompt = {prompt}")
    options: list[tuple[str, Any]] = []
    if follow or run.target:
        options.append(("target", follow or repr(run.target)))
    if run.position != -1:
        options.append(("position", run.position))
    if run.layers is not None:
        options.append(("layers", f"range({run.layers[0]}, {run.layers[1] + 1})"))
    if run.expand:
        options.append(("expand", run.expand))
    common: list[tuple[str, Any]] = []
    if bos is not None:
        common.append(("prepend_bos", bos))
    if run.segments.strip():
        common.append(("segments", spans(run.segments)))
    if run.changes:
        lines += _changes(run, model, common)
        options.append(("fwd_hooks", "hooks"))
    lines.append(f"{name} = {_call('vt.flow_graph', [model, 'prompt'], [*options, *common])}")
    return lines


def _chat_function(model: str) -> list[str]:
    return [
        "def chat(text):",
        '    messages = [{"role": "user", "content": text}]',
        f"    return {model}.tokenizer.apply_chat_template(",
        "        messages, tokenize=False, add_generation_prompt=True",
        "    )",
        "",
    ]


def _changes(run: Request, model: str, common: Sequence[tuple[str, Any]]) -> list[str]:
    hows = {change.how for change in run.changes}
    others = [f"chat({other!r})" if run.chat else repr(other) for other in run.others]
    options: list[tuple[str, Any]] = []
    if run.position != -1:
        options.append(("position", run.position))
    if "resample" in hows and others:
        options.append(("corrupted", others[0]))
    if "mean" in hows and others:
        options.append(("mean_over", f"[{', '.join(others)}]"))
    pairs = [f"    {change.pair!r}," for change in run.changes]
    call = _call("vt.causal.change_hooks", [model, "prompt", "changes"], [*options, *common])
    return ["changes = [", *pairs, "]", f"hooks = {call}"]


def _call(name: str, given: Sequence[str], options: Sequence[tuple[str, Any]]) -> str:
    words = [*given, *(f"{option}={value}" for option, value in options)]
    return f"{name}({', '.join(words)})"
