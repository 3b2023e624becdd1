"""How a tokenizer writes the two digits that follow the century of a year."""

from __future__ import annotations

from dataclasses import dataclass

from visit_tl.circuits.prompts.tokenizing import name_of
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_CARRIER = "from the year 1352 to the year 13"


@dataclass(frozen=True)
class YearTokens:
    """The ids of years after their century.

    Attributes:
        years: Ids of 00 to 99, where each is one token; else empty.
        digits: Ids of 0 to 9 after another digit, where each is one token; else empty.
    """

    years: tuple[int, ...]
    digits: tuple[int, ...]


def year_tokens(tokens: Tokens) -> YearTokens:
    """Find out whether a year such as 52 is one token, or two of one digit each.

    Raises:
        InputError: it is neither.
    """
    years = [_alone(tokens, f"{year:02d}") for year in range(100)]
    whole = [token for token in years if token is not None]
    if len(whole) == 100:
        return YearTokens(tuple(whole), ())
    digits = [_after(tokens, str(digit)) for digit in range(10)]
    single = tuple(ids[0] for ids in digits if len(ids) == 1)
    if len(single) == 10 and all(
        tokens.text(token).strip() == str(digit) for digit, token in enumerate(single)
    ):
        split = {year: _after(tokens, f"{year:02d}") for year in range(100)}
        if all(ids == (single[year // 10], single[year % 10]) for year, ids in split.items()):
            return YearTokens((), single)
    raise InputError(
        f"{name_of(tokens)} writes years of two digits neither as one token each nor digit by "
        f"digit: {len(whole)} of 100 are one token, and after '13' it writes '52' as "
        f"{' + '.join(repr(tokens.text(i)) for i in _after(tokens, '52')) or 'other tokens'}; "
        f"greater-than cannot be asked of it"
    )


def _alone(tokens: Tokens, text: str) -> int | None:
    ids = tokens.encode(text, False).ids
    return ids[0] if len(ids) == 1 and tokens.text(ids[0]) == text else None


def _after(tokens: Tokens, digits: str) -> tuple[int, ...]:
    """The tokens that digits add after a century; none if they change what is before them."""
    base = tokens.encode(_CARRIER, False).ids
    ids = tokens.encode(_CARRIER + digits, False).ids
    return ids[len(base) :] if ids[: len(base)] == base else ()
