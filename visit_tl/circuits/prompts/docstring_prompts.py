"""Make docstring prompts, whose answer is the next argument's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Names, Seed
from visit_tl.circuits.prompts.different_pairs import Key, digits_of, distinct, radices_of
from visit_tl.circuits.prompts.draws import Draws
from visit_tl.circuits.prompts.filled_text import Sentence, fill, refill
from visit_tl.circuits.prompts.pair import END, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.task_material import prompt_set, task_material
from visit_tl.circuits.prompts.tokenizing import open_tokens
from visit_tl.circuits.prompts.word_lists import usable_words
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_DEFINED: Final = ("A", "B", "C", "D", "E")
_DESCRIBED: Final = ("A_DOC", "B_DOC")
_ARGUMENTS_NEEDED: Final = 12
"""Five of the definition, five that replace them, and two that replace those of the docstring."""

_NOUNS_NEEDED: Final = 8


@checked
def docstring(
    model: Model,
    n: Count,
    *,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    same_length: Flag = False,
    arguments: Names | None = None,
    nouns: Names | None = None,
) -> PromptSet:
    """Make prompts for the docstring task, each with its corruptions.

    The task is that of Heimersheim and Janiak 2023: a function is defined with at least three
    arguments, its docstring describes the first two in ":param" lines and stops after the third
    ":param", and the next token is the third argument. The wrong answers are the other arguments of
    the definition; the metric is the logit of the right name minus the largest logit of a wrong
    one. The prompts are this package's own.

    Positions: `A_def`, `B_def`, `B_def+1` (the comma after it), `C_def` in the definition; `A_doc`,
    `B_doc` in the docstring; and END.

    Corruptions replace names of arguments by others, all different, and keep the rest:

    - `random-random`: all in the definition and in the docstring; those in the docstring are not
      those of the definition.
    - `random-def`: those in the definition, so the right answer is not in the prompt.
    - `random-doc`: those in the docstring, so nothing tells which argument comes next.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        n: Number of prompts.
        seed: Seed of the random choices; the same seed gives the same prompts on every machine.
        prepend_bos: Whether to prepend a BOS; None is the model's own default. The paper did.
        same_length: Use only the forms with the most frequent token length, so that all prompts
            form one batch.
        arguments: Names of arguments to use instead of the package's own. All must be single tokens
            after a space, at least 12.
        nouns: The same for the words of descriptions, and the function's name; at least 8.

    Returns:
        The prompts; `report` lists which words and forms were usable.

    Raises:
        InputError: a word that was given is not a single token, or is both an argument and a noun;
            too few are single tokens; or there are fewer than n different prompts.
    """
    own = task_material("docstring")
    tokens = open_tokens(model)
    names = usable_words(tokens, "arguments", arguments, own.words["arguments"], _ARGUMENTS_NEEDED)
    words = usable_words(tokens, "nouns", nouns, own.words["nouns"], _NOUNS_NEEDED)
    if both := names.ids.keys() & words.ids.keys():
        raise InputError(f"{', '.join(sorted(both))} are in arguments and in nouns")
    maker = _Maker(tokens, prepend_bos, names.ids, words.ids)
    asked = (n, seed, same_length)
    return prompt_set(
        "docstring", tokens, maker, own.sentences, asked, (names.usable, words.usable)
    )


@dataclass(frozen=True)
class _Maker:
    """Makes prompts from a form, names of arguments and nouns.

    The number of a prompt chooses its first three arguments; the rest is drawn by its key.
    """

    tokens: Tokens
    prepend_bos: bool | None
    names: Mapping[str, int]
    nouns: Mapping[str, int]

    def radices(self, template: Sentence) -> list[int]:
        return radices_of(len(self.names), 3)

    def pair(self, template: Sentence, number: int, key: Key) -> PromptPair:
        first = distinct(list(self.names), digits_of(number, self.radices(template)))
        rest = [name for name in self.names if name not in first]
        ids = {**self.names, **self.nouns}
        defined = [slot for slot in _DEFINED if slot in template.slots]
        others = Draws(*key, "arguments").some(rest, len(defined) - 3)
        arguments = dict(zip(defined, [*first, *others], strict=True))
        plain = [s for s in template.slots if s not in (*_DEFINED, *_DESCRIBED)]
        drawn = Draws(*key, "nouns").some(list(self.nouns), len(plain))
        words = {
            **arguments,
            **dict(zip(_DESCRIBED, first, strict=False)),
            **dict(zip(plain, drawn, strict=True)),
        }
        clean = fill(self.tokens, template, words, ids, self.prepend_bos)
        corrupted = {
            name: refill(self.tokens, template, words | new, ids, clean, self.prepend_bos)
            for name, new in self._corrupted(list(arguments), list(arguments.values()), key).items()
        }
        at = clean.positions
        return PromptPair(
            clean.text,
            clean.ids,
            (ids[arguments["C"]],),
            tuple(ids[name] for slot, name in arguments.items() if slot != "C"),
            {
                "A_def": at["A"],
                "B_def": at["B"],
                "B_def+1": at["B"] + 1,
                "C_def": at["C"],
                "A_doc": at["A_DOC"],
                "B_doc": at["B_DOC"],
                END: at[END],
            },
            corrupted,
            template.id,
        )

    def _corrupted(self, slots: list[str], used: list[str], key: Key) -> dict[str, dict[str, str]]:
        """The new names by slot, for each corruption."""
        others = [name for name in self.names if name not in used]
        names = Draws(*key, "corrupted").some(others, len(slots) + len(_DESCRIBED))
        defined = dict(zip(slots, names, strict=False))
        described: dict[str, str] = dict(zip(_DESCRIBED, names[len(slots) :], strict=True))
        return {
            "random-random": defined | described,
            "random-def": defined,
            "random-doc": described,
        }
