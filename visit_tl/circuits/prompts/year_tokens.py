"""How a tokenizer writes the two digits that follow the century of a year."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from visit_tl.circuits.prompts.pair import FirstToken
from visit_tl.circuits.prompts.tokenizing import name_of
from visit_tl.circuits.prompts.unusable import YEARS, PairError
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


def split_years(
    digits: tuple[int, ...], right: Collection[int], wrong: Collection[int]
) -> tuple[tuple[int, ...], tuple[int, ...], FirstToken]:
    """Right and wrong digits after a first digit, and which first digits decide by themselves.

    Args:
        digits: Ids of 0 to 9.
        right: Right years, 0 to 99.
        wrong: Wrong ones.

    Raises:
        PairError: more than one decade has right and wrong years, or some that
            are neither; one run cannot tell them apart.
    """
    decades = {digit: range(digit * 10, digit * 10 + 10) for digit in range(10)}
    all_right = [digit for digit, each in decades.items() if all(y in right for y in each)]
    all_wrong = [digit for digit, each in decades.items() if all(y in wrong for y in each)]
    decided = {*all_right, *all_wrong}
    mixed = [
        digit
        for digit, each in decades.items()
        if digit not in decided and any(y in right or y in wrong for y in each)
    ]
    if len(mixed) > 1:
        raise PairError(
            YEARS,
            f"its years are written digit by digit here, and the decades "
            f"{', '.join(f'{digit}0' for digit in mixed)} are right in part; one run can tell the "
            f"years of one decade apart",
        )
    # Where every first digit decides, that of the last wrong year is as good as any.
    first = mixed[0] if mixed else max(all_wrong, default=max(all_right, default=0))
    return (
        tuple(digits[year % 10] for year in decades[first] if year in right),
        tuple(digits[year % 10] for year in decades[first] if year in wrong),
        FirstToken(
            digits[first],
            tuple(digits[digit] for digit in all_right if digit != first),
            tuple(digits[digit] for digit in all_wrong if digit != first),
        ),
    )


def with_digit(
    tokens: Tokens, text: str, prepend_bos: bool | None, digit: str, token: int
) -> tuple[str, tuple[int, ...]]:
    """A prompt with one more digit at its end, as text and as ids.

    Raises:
        PairError: the digit is not one more token.
    """
    longer = text + digit
    ids = tokens.encode(longer, prepend_bos).ids
    if ids != (*tokens.encode(text, prepend_bos).ids, token):
        raise PairError(
            YEARS,
            f"{name_of(tokens)} does not write {digit!r} after {text[-12:]!r} as one more token: "
            f"{[tokens.text(i) for i in ids[-3:]]}",
        )
    return longer, ids


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


def digits_note(tokens: Tokens) -> str:
    """For the report, where years are written digit by digit."""
    return (
        f"{name_of(tokens)} writes years digit by digit: each prompt ends with a first digit, and "
        f"probability_difference reads it and the next"
    )


def _alone(tokens: Tokens, text: str) -> int | None:
    ids = tokens.encode(text, False).ids
    return ids[0] if len(ids) == 1 and tokens.text(ids[0]) == text else None


def _after(tokens: Tokens, digits: str) -> tuple[int, ...]:
    """The tokens that digits add after a century; none if they change what is before them."""
    base = tokens.encode(_CARRIER, False).ids
    ids = tokens.encode(_CARRIER + digits, False).ids
    return ids[len(base) :] if ids[: len(base)] == base else ()
