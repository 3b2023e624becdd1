"""Make greater-than prompts, whose right answers are the later years of a century."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Names, Seed
from visit_tl.circuits.prompts.different_pairs import Key, digits_of
from visit_tl.circuits.prompts.filled_text import Sentence
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Usable
from visit_tl.circuits.prompts.task_material import prompt_set, task_material
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
from visit_tl.circuits.prompts.word_lists import usable_words
from visit_tl.circuits.prompts.year_pairs import year_pair
from visit_tl.circuits.prompts.year_tokens import YearTokens, digits_note, year_tokens
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_FIRST: Final = "01"
"""The corruption: the year becomes the second of its century, after which nearly all are later."""


@checked
def greater_than(
    model: Model,
    n: Count,
    *,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    same_length: Flag = False,
    nouns: Names | None = None,
) -> PromptSet:
    """Make prompts for the greater-than task, each with its corruption.

    The task is that of Hanna, Liu and Variengien 2023: after "The war lasted from the year 1352 to
    the year 13", the years 53 to 99 are right and 00 to 52 are wrong. Its metric is the probability
    of the right ones minus that of the wrong ones (`prompts.metrics`). Centuries are 11 to 17,
    years of a century 02 to 98, as in the paper; the first of the four sentences is the paper's.
    If the tokenizer writes years digit by digit, prompts end with the first digit of the year, as
    `read_greater_than` describes.

    Positions: `NOUN`, `XX` (the last token of the century of the first year), `YY` (the last token
    of the first year), and END. If years are written in digits, also `YY-1`, the first digit of YY.

    The corruption `01` writes 01 in the place of YY.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        n: Number of prompts.
        seed: Seed of the random choices; the same seed gives the same prompts on every machine.
        prepend_bos: Whether to prepend a BOS; None is the model's own default.
        same_length: Use only sentences with the most frequent token length, so that all prompts
            form one batch.
        nouns: Nouns to use instead of the package's own. All must be single tokens after a space.

    Returns:
        The prompts; `report` lists which nouns, years and sentences were usable.

    Raises:
        InputError: the tokenizer writes years neither as one token nor digit by digit; no year is
            written as its century and two digits; a noun that was given is not a single token; or
            there are fewer than n different prompts.
    """
    own = task_material("greater_than")
    tokens = open_tokens(model)
    written = year_tokens(tokens)
    words = usable_words(tokens, "nouns", nouns, own.words["nouns"], 1)
    years = _usable_years(tokens, written, own.words["centuries"])
    maker = _Maker(tokens, prepend_bos, written, tuple(words.ids), words.ids, years)
    notes = (digits_note(tokens),) if written.digits else ()
    asked = (n, seed, same_length)
    return prompt_set(
        "greater-than", tokens, maker, own.sentences, asked, (words.usable, years), notes
    )


@dataclass(frozen=True)
class _Maker:
    """Makes prompts from a sentence, a noun and a year."""

    tokens: Tokens
    prepend_bos: bool | None
    written: YearTokens
    nouns: Sequence[str]
    ids: Mapping[str, int]
    years: Usable

    def radices(self, template: Sentence) -> list[int]:
        return [len(self.nouns), len(self.years.usable)]

    def pair(self, template: Sentence, number: int, key: Key) -> PromptPair:
        noun, year = digits_of(number, self.radices(template))
        noun, year = self.nouns[noun], self.years.usable[year]
        century = year[:2]

        def text(year: str) -> str:
            return template.text.format(NOUN=noun, YEAR=year, CENTURY=century)

        before, _, _ = template.text.partition("{YEAR}")
        start = before.format(NOUN=noun)
        upto, _, _ = template.text.partition("{NOUN}")
        ends = {"NOUN": upto + noun, "XX": start + century, "YY": start + year}
        if self.written.digits:
            ends["YY-1"] = start + year[:3]
        whole = self.tokens.encode(text(year), self.prepend_bos).ids
        positions = {
            name: self._end(until, whole, template)
            for name, until in sorted(ends.items(), key=lambda end: len(end[1]))
        }
        if whole[positions["NOUN"]] != self.ids[noun]:
            raise InputError(
                f"the noun {noun!r} is not a token of its own in {text(year)!r}; leave it out"
            )
        return year_pair(
            self.tokens,
            self.written,
            int(year[2:]),
            text(year),
            {_FIRST: text(century + _FIRST)},
            self.prepend_bos,
            positions,
            template.id,
        )

    def _end(self, until: str, whole: tuple[int, ...], template: Sentence) -> int:
        """The position of the last token of a beginning of the prompt."""
        ids = self.tokens.encode(until, self.prepend_bos).ids
        if whole[: len(ids)] != ids:
            raise InputError(
                f"{name_of(self.tokens)} writes {until!r} otherwise where {template.id} goes on "
                f"after it, so its positions cannot be named: "
                f"{[self.tokens.text(i) for i in whole]}"
            )
        return len(ids) - 1


def _usable_years(tokens: Tokens, written: YearTokens, centuries: Sequence[str]) -> Usable:
    """The years that are a century and two digits in tokens, with 01 of the same century.

    Raises:
        InputError: there is none.
    """
    usable: list[str] = []
    rejected: list[str] = []
    for century in centuries:
        base = tokens.encode(f"the year {century}", False).ids
        first = _splits(tokens, base, century, 1, written)
        for year in range(2, 99):
            fits = first and _splits(tokens, base, century, year, written)
            (usable if fits else rejected).append(f"{century}{year:02d}")
    if not usable:
        raise InputError(
            f"{name_of(tokens)} writes none of the years {rejected[0]} to {rejected[-1]} as a "
            f"century and two digits; greater-than cannot be tested with it"
        )
    return Usable("years", tuple(usable), tuple(rejected), "not a century and two digits in tokens")


def _splits(
    tokens: Tokens, base: tuple[int, ...], century: str, year: int, written: YearTokens
) -> bool:
    digits = written.digits
    own = (digits[year // 10], digits[year % 10]) if digits else (written.years[year],)
    return tokens.encode(f"the year {century}{year:02d}", False).ids == (*base, *own)
