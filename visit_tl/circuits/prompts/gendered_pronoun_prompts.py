"""Make prompts of gendered pronouns: a named person and a question tag, before "he" or "she"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Names, Seed
from visit_tl.circuits.prompts.different_pairs import Key, digits_of
from visit_tl.circuits.prompts.draws import Draws
from visit_tl.circuits.prompts.filled_text import Filled, Sentence, fill, refill
from visit_tl.circuits.prompts.pair import END, Corrupted, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.task_material import prompt_set, task_material
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens, pieces, token_after_space
from visit_tl.circuits.prompts.word_lists import usable_words
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_PRONOUNS: Final = {"men": "he", "women": "she"}
_CLEAN, _PERSON = "So {}", "That person"


@checked
def gendered_pronoun(
    model: Model,
    n: Count,
    *,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    same_length: Flag = False,
    men: Names | None = None,
    women: Names | None = None,
) -> PromptSet:
    """Make prompts for gendered pronouns, each with its corruptions.

    The task is that of Mathwin et al. 2023: "So Mary is a really good cook, isn't" goes on with
    " she". The answer is the usual pronoun for the name, the wrong answer the other one, and the
    metric their logit difference. The sentences are this package's own.

    Positions: `NAME`, `NAME+1` (the word after it) and END.

    Corruptions:

    - `person`: "So Mary" becomes "That person", as in the paper; nothing tells the pronoun. It is
      left out, with a note in the report, if the tokenizer makes them of unequal length.
    - `flip`: the name becomes one of the other list, so the right answer becomes `pair.wrong`.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        n: Number of prompts.
        seed: Seed of the random choices; the same seed gives the same prompts on every machine.
        prepend_bos: Whether to prepend a BOS; None is the model's own default.
        same_length: Use only sentences with the most frequent token length, so that all prompts
            form one batch.
        men: Names to use with "he", instead of the package's own. All must be single tokens after
            a space.
        women: The same for names with "she".

    Returns:
        The prompts; `report` lists which names and sentences were usable.

    Raises:
        InputError: " he" or " she" is not a single token; a name that was given is not, or is given
            for both; no name is left; or there are fewer than n different prompts.
    """
    own = task_material("gendered_pronoun")
    tokens = open_tokens(model)
    given = {"men": men, "women": women}
    words = {kind: usable_words(tokens, kind, given[kind], own.words[kind], 1) for kind in given}
    if both := words["men"].ids.keys() & words["women"].ids.keys():
        raise InputError(f"the names {', '.join(sorted(both))} are in men and in women")
    answers = {kind: token_after_space(tokens, word) for kind, word in _PRONOUNS.items()}
    known = {kind: token for kind, token in answers.items() if token is not None}
    if len(known) < len(answers):
        raise InputError(
            f"the pronouns are not single tokens of {name_of(tokens)} after a space: "
            f"{pieces(tokens, list(_PRONOUNS.values()))}; gendered pronouns cannot be tested with "
            f"it"
        )
    names = {name: kind for kind, found in words.items() for name in found.ids}
    ids = {name: token for found in words.values() for name, token in found.ids.items()}
    person = _as_long(tokens, next(iter(names)), prepend_bos)
    maker = _Maker(tokens, prepend_bos, names, ids, known, person)
    note = f"{name_of(tokens)} writes 'That person' and 'So' with a name in unequal lengths, so "
    return prompt_set(
        "gendered pronoun",
        tokens,
        maker,
        own.sentences,
        (n, seed, same_length),
        [found.usable for found in words.values()],
        () if person else (note + "there is no corruption 'person'",),
    )


@dataclass(frozen=True)
class _Maker:
    """Makes prompts from a sentence and a name.

    Attributes:
        names: For each name, `men` or `women`.
        ids: The token id of each name.
        answers: The token id of the pronoun of each kind.
        person: Whether there is the corruption `person`.
    """

    tokens: Tokens
    prepend_bos: bool | None
    names: Mapping[str, str]
    ids: Mapping[str, int]
    answers: Mapping[str, int]
    person: bool

    def radices(self, template: Sentence) -> list[int]:
        return [len(self.names)]

    def pair(self, template: Sentence, number: int, key: Key) -> PromptPair:
        name = list(self.names)[digits_of(number, self.radices(template))[0]]
        kind = self.names[name]
        clean = fill(self.tokens, template, {"NAME": name}, self.ids, self.prepend_bos)
        others = [other for other, its in self.names.items() if its != kind]
        flipped = {"NAME": Draws(*key, "flip").some(others, 1)[0]}
        corrupted = {"person": self._person(clean, name)} if self.person else {}
        corrupted["flip"] = refill(
            self.tokens, template, flipped, self.ids, clean, self.prepend_bos
        )
        at = clean.positions["NAME"]
        return PromptPair(
            clean.text,
            clean.ids,
            (self.answers[kind],),
            tuple(token for other, token in self.answers.items() if other != kind),
            {"NAME": at, "NAME+1": at + 1, END: clean.positions[END]},
            corrupted,
            template.id,
        )

    def _person(self, clean: Filled, name: str) -> Corrupted:
        text = _PERSON + clean.text.removeprefix(_CLEAN.format(name))
        ids = self.tokens.encode(text, self.prepend_bos).ids
        after = clean.positions["NAME"] + 1
        if len(ids) != len(clean.ids) or ids[after:] != clean.ids[after:]:
            raise InputError(
                f"{text!r} does not go on in the same tokens as {clean.text!r}; use names that do"
            )
        return Corrupted(text, ids)


def _as_long(tokens: Tokens, name: str, prepend_bos: bool | None) -> bool:
    """Whether "That person" has as many tokens as "So" with a name."""
    texts = (f"{_CLEAN.format(name)} is", f"{_PERSON} is")
    one, other = (tokens.encode(text, prepend_bos).ids for text in texts)
    return len(one) == len(other) and one[-1] == other[-1]
