"""The sentences and words of a task, from data/, and the set of prompts that is made of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from visit_tl.circuits.prompts.different_pairs import (
    Maker,
    all_usable,
    different_pairs,
    of_one_length,
)
from visit_tl.circuits.prompts.filled_text import Sentence
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report, Usable
from visit_tl.circuits.prompts.tokenizing import name_of
from visit_tl.model.tokens import Tokens


@dataclass(frozen=True)
class TaskMaterial:
    """The content of a file of data/.

    Attributes:
        sentences: The sentences with their slots.
        words: Words by kind, such as `names`.
    """

    sentences: tuple[Sentence, ...]
    words: Mapping[str, tuple[str, ...]]


@functools.cache
def task_material(name: str) -> TaskMaterial:
    """The sentences and words of a task, from `data/{name}.json`."""
    file = resources.files("visit_tl.circuits.prompts") / "data" / f"{name}.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    return TaskMaterial(
        sentences=tuple(Sentence(one["id"], one["text"]) for one in data["sentences"]),
        words={
            kind: tuple(words) for kind, words in data.items() if kind not in ("about", "sentences")
        },
    )


def prompt_set(
    task: str,
    tokens: Tokens,
    maker: Maker[Sentence],
    sentences: Sequence[Sentence],
    asked: tuple[int, int, bool],
    words: Sequence[Usable],
    notes: tuple[str, ...] = (),
) -> PromptSet:
    """Draw the prompts of a task, and report what they are made of.

    Args:
        task: Name of the task.
        tokens: The tokenizer.
        maker: Makes the prompts of a sentence.
        sentences: The sentences.
        asked: How many prompts, the seed, and whether all must have one length.
        words: The usable and rejected words by kind.
        notes: Notes for the report.

    Raises:
        InputError: there are too few different prompts, or a sentence does not fit the tokenizer.
    """
    n, seed, same_length = asked
    chosen, used = (
        of_one_length(maker, sentences) if same_length else (sentences, all_usable(sentences))
    )
    told = ", ".join(f"{len(kind.usable)} {kind.kind}" for kind in words)
    eos = tokens.eos
    return PromptSet(
        pairs=different_pairs(task, maker, chosen, n, seed, told),
        tokenizer=name_of(tokens),
        task=task,
        pad_id=0 if eos is None else eos,
        report=Report((*words, used), notes),
    )
