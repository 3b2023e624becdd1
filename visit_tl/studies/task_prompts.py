r"""Few-shot prompts of the function-vector tasks (Todd et al. 2023), as the papers write them.

Demonstrations are `Q: x\nA: y\n\n`, and the prompt ends in `Q: x\nA:`. The pairs are in data/.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import cache
from importlib import resources
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Name, Seed, Whole
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens
from visit_tl.model.view import ModelView

_DRAWS: Final = 30
"""How often demonstrations are drawn for one query until the prompt has the wanted length."""

Pair = tuple[str, str]


def tasks() -> tuple[str, ...]:
    """Names of the tasks."""
    return tuple(_pairs())


@checked
def few_shot(
    model: Model,
    task: Name,
    *,
    shots: Whole = 0,
    n: Count = 50,
    seed: Seed = 42,
    same_length: Flag = False,
    prepend_bos: Flag | None = None,
) -> list[tuple[str, str]]:
    """Draw prompts of a task, each with its own demonstrations.

    Only pairs are used whose answer, with a space before it, is one token of the model; an input
    that occurs twice is used once. No pair is the query of two prompts, and no prompt demonstrates
    its own query. The same arguments give the same prompts.

    Args:
        model: As for `flow_graph`; its tokenizer decides what can be used.
        task: One of `tasks()`.
        shots: Demonstrations before the query.
        n: The most prompts to draw; fewer come back where the task has fewer.
        seed: Of the draw.
        same_length: Keep only prompts with as many tokens as most have, as `mean_maps` needs.
            Demonstrations are then drawn again until a prompt has that length.
        prepend_bos: As for `flow_graph`; it matters for the length alone.

    Returns:
        Pairs of a prompt and its target, which is one token with a leading space.

    Raises:
        InputError: no such task, or too few pairs for the demonstrations.
    """
    view = ModelView(model)
    usable = _usable(view.tokens, task)
    if len(usable) <= shots:
        raise InputError(
            f"{len(usable)} pairs of {task!r} have an answer that is one token of {view.name}; "
            f"{shots} shots need at least {shots + 1}"
        )
    stream = random.Random(f"{task} {shots} {seed}")
    queries = stream.sample(usable, len(usable))

    def draw(query: Pair) -> str:
        return _written(stream.sample([pair for pair in usable if pair != query], shots), query[0])

    if not same_length:
        return [(draw(query), f" {query[1]}") for query in queries[:n]]

    def length(prompt: str) -> int:
        return len(view.tokens.encode(prompt, prepend_bos).ids)

    wanted = Counter(length(draw(query)) for query in queries).most_common(1)[0][0]
    found: list[Pair] = []
    for query in queries:
        prompts = (draw(query) for _ in range(_DRAWS if shots else 1))
        prompt = next((one for one in prompts if length(one) == wanted), None)
        if prompt is not None:
            found.append((prompt, f" {query[1]}"))
        if len(found) == n:
            break
    return found


def _written(demonstrations: list[Pair], query: str) -> str:
    return "".join(f"Q: {x}\nA: {y}\n\n" for x, y in demonstrations) + f"Q: {query}\nA:"


def _usable(tokens: Tokens, task: str) -> list[Pair]:
    """The pairs of a task whose answer is one token, each input once.

    Raises:
        InputError: no such task.
    """
    if task not in _pairs():
        raise InputError(f"there is no task {task!r}; there are {', '.join(tasks())}")
    once: dict[str, str] = {}
    for x, y in _pairs()[task]:
        once.setdefault(x, y)
    return [(x, y) for x, y in once.items() if len(tokens.split(f" {y}")) == 1]


@cache
def _pairs() -> dict[str, list[Pair]]:
    file = resources.files("visit_tl.studies") / "data" / "tasks.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    return {task: [(x, y) for x, y in pairs] for task, pairs in found.items()}
