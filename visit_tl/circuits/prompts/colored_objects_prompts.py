"""Make prompts of coloured objects: one solved question, then another of the same kind."""

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

_NEEDED: Final = {"colors": 9, "objects": 6, "places": 2}
"""Three colours of each question, and three that replace those of the second."""


@checked
def colored_objects(
    model: Model,
    n: Count,
    *,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    same_length: Flag = False,
    colors: Names | None = None,
    objects: Names | None = None,
    places: Names | None = None,
) -> PromptSet:
    """Make prompts for coloured objects, each with its corruptions.

    The task is that of Merullo, Eickhoff and Pavlick 2024: after one solved question, "Q: On the
    desk, there is a blue pencil, a black scarf and a yellow lamp. What color is the pencil? A:"
    goes on with " blue". The wrong answers are the two other colours of the open question; the
    metric is the logit of the right colour minus the larger logit of the two. All six colours of a
    prompt differ, and all six objects. The prompts are this package's own, and write the answer in
    lower case.

    Positions: of the open question, `COLOR` (the right colour), `OBJECT1` (the object after it) and
    `OBJECT2` (the object in the question); of the solved one, `ASKED` and `ANSWER`; and END.

    Corruptions:

    - `other-object`: the open question asks for another of its objects, so the right answer becomes
      one of `pair.wrong`.
    - `other-colors`: three colours that are not in the prompt replace those of the open question.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        n: Number of prompts.
        seed: Seed of the random choices; the same seed gives the same prompts on every machine.
        prepend_bos: Whether to prepend a BOS; None is the model's own default. The paper did not.
        same_length: Use only the forms with the most frequent token length, so that all prompts
            form one batch.
        colors: Colours to use instead of the package's own, which follow "a". All must be single
            tokens after a space, at least 9.
        objects: The same for objects, at least 6.
        places: The same for places, which follow "the"; at least 2.

    Returns:
        The prompts; `report` lists which words and forms were usable.

    Raises:
        InputError: a word that was given is not a single token, or is of two kinds; too few are
            single tokens; or there are fewer than n different prompts.
    """
    own = task_material("colored_objects")
    tokens = open_tokens(model)
    given = {"colors": colors, "objects": objects, "places": places}
    words = {
        kind: usable_words(tokens, kind, given[kind], own.words[kind], needed)
        for kind, needed in _NEEDED.items()
    }
    ids = {word: token for kind in words.values() for word, token in kind.ids.items()}
    if len(ids) < sum(len(kind.ids) for kind in words.values()):
        every = [word for kind in words.values() for word in kind.ids]
        twice = sorted({word for word in every if every.count(word) > 1})
        raise InputError(f"{', '.join(twice)} are in two of colors, objects and places")
    maker = _Maker(tokens, prepend_bos, ids, {kind: tuple(own.ids) for kind, own in words.items()})
    rows = [kind.usable for kind in words.values()]
    asked = (n, seed, same_length)
    return prompt_set("colored objects", tokens, maker, own.sentences, asked, rows)


@dataclass(frozen=True)
class _Maker:
    """Makes prompts from a form, colours, objects and places.

    The number of a prompt chooses which object is asked for, the colours of the open question, and
    that object; the rest is drawn by its key.
    """

    tokens: Tokens
    prepend_bos: bool | None
    ids: Mapping[str, int]
    pools: Mapping[str, tuple[str, ...]]

    def radices(self, template: Sentence) -> list[int]:
        colors, objects = (len(self.pools[kind]) for kind in ("colors", "objects"))
        return [3, objects, *radices_of(colors, 3)]

    def pair(self, template: Sentence, number: int, key: Key) -> PromptPair:
        asked, thing, *of_colors = digits_of(number, self.radices(template))
        colors = distinct(self.pools["colors"], of_colors)
        words, left = self._words(asked, self.pools["objects"][thing], colors, key)
        clean = fill(self.tokens, template, words, self.ids, self.prepend_bos)
        draws = Draws(*key, "corrupted")
        another = draws.some([i for i in range(3) if i != asked], 1)[0]
        changes = {
            "other-object": {"OBJECT": words[f"O{another + 1}"]},
            "other-colors": {f"C{i + 1}": color for i, color in enumerate(draws.some(left, 3))},
        }
        at = clean.positions
        return PromptPair(
            clean.text,
            clean.ids,
            (self.ids[colors[asked]],),
            tuple(self.ids[color] for i, color in enumerate(colors) if i != asked),
            {
                "ASKED": at["ASKED"],
                "ANSWER": at["ANSWER"],
                "COLOR": at[f"C{asked + 1}"],
                "OBJECT1": at[f"O{asked + 1}"],
                "OBJECT2": at["OBJECT"],
                END: at[END],
            },
            {
                name: refill(self.tokens, template, words | new, self.ids, clean, self.prepend_bos)
                for name, new in changes.items()
            },
            template.id,
        )

    def _words(
        self, asked: int, thing: str, colors: list[str], key: Key
    ) -> tuple[dict[str, str], list[str]]:
        """The word of each slot, and the colours that are left."""
        draws = Draws(*key, "words")
        free = [color for color in self.pools["colors"] if color not in colors]
        solved = draws.some(free, 3)
        things = draws.some([one for one in self.pools["objects"] if one != thing], 5)
        open_things = [*things[:asked], thing, *things[asked:2]]
        which = draws.below(3)
        places = draws.some(self.pools["places"], 2)
        words = {"PLACE1": places[0], "PLACE2": places[1], "OBJECT": thing}
        for i in range(3):
            words |= {f"C{i + 1}": colors[i], f"O{i + 1}": open_things[i]}
            words |= {f"D{i + 1}": solved[i], f"E{i + 1}": things[2 + i]}
        words |= {"ASKED": things[2 + which], "ANSWER": solved[which]}
        return words, [color for color in free if color not in solved]
