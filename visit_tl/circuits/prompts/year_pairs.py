"""A pair of the greater-than task from its texts and its year, whatever writes years."""

from __future__ import annotations

from collections.abc import Mapping

from visit_tl.circuits.prompts.pair import END, Corrupted, PromptPair, check_alone
from visit_tl.circuits.prompts.year_tokens import YearTokens, split_years, with_digit
from visit_tl.model.tokens import Tokens


def year_pair(
    tokens: Tokens,
    years: YearTokens,
    year: int,
    text: str,
    corrupted: Mapping[str, str],
    prepend_bos: bool | None,
    positions: Mapping[str, int] | None = None,
    template: str = "",
) -> PromptPair:
    """Make a pair whose right answers are the years after `year`, and whose wrong ones the others.

    If years are written digit by digit, the first digit of the year is appended to all texts.

    Args:
        tokens: The tokenizer.
        years: How it writes years.
        year: The last two digits of the year in the text, 0 to 98.
        text: The clean text, which ends with a century.
        corrupted: The corrupted texts, by the name of the corruption.
        prepend_bos: Whether to prepend a BOS; None is the model's own default.
        positions: Named positions; END is added.
        template: Id of the template.

    Raises:
        PairError: the pair is not valid, or a digit does not add exactly its own token.
    """
    if years.digits:
        later, others = range(year + 1, 100), range(year + 1)
        answers, wrong, first = split_years(years.digits, later, others)
        digit = (str(year // 10), first.token)
        clean = with_digit(tokens, text, prepend_bos, *digit)
        read = {name: with_digit(tokens, t, prepend_bos, *digit) for name, t in corrupted.items()}
    else:
        # The year itself is a wrong answer, as in the paper.
        answers, wrong, first = years.years[year + 1 :], years.years[: year + 1], None
        clean = (text, tokens.encode(text, prepend_bos).ids)
        read = {name: (t, tokens.encode(t, prepend_bos).ids) for name, t in corrupted.items()}
    pair = PromptPair(
        text=clean[0],
        ids=clean[1],
        answers=answers,
        wrong=wrong,
        positions={**(positions or {}), END: len(clean[1]) - 1},
        corrupted={name: Corrupted(*one) for name, one in read.items()},
        template=template,
        first=first,
    )
    check_alone(pair)
    return pair
