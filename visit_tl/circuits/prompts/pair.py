"""One prompt and its corruptions, and what must hold of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from visit_tl.errors import InputError

END: Final = "END"


@dataclass(frozen=True)
class Corrupted:
    """A corrupted prompt.

    Attributes:
        text: As the tokenizer was given it.
        ids: Token ids, as many as the clean prompt has.
    """

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and its corruptions.

    Attributes:
        text: The clean prompt.
        ids: Its token ids, with the BOS where one was put.
        answers: Ids of the right next tokens; for IOI the one of IO.
        wrong: Ids of the wrong ones; for IOI the one of S.
        positions: Indices into `ids`, by name. END, the last, is always there; prompts of IOI
            have IO, S1, S1+1 and S2 too.
        corrupted: The corrupted prompts, by the name of the corruption.
        template: Which template made it, such as `ABBA-07`; empty where it is not known.
    """

    text: str
    ids: tuple[int, ...]
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    positions: Mapping[str, int]
    corrupted: Mapping[str, Corrupted]
    template: str = ""

    @property
    def order(self) -> str:
        """`ABBA` where IO comes first, `BABA` where S does; empty where neither is known."""
        if not {"IO", "S1"} <= self.positions.keys():
            return ""
        return "ABBA" if self.positions["IO"] < self.positions["S1"] else "BABA"


def check(index: int, pair: PromptPair, first: PromptPair) -> None:
    """Refuse a pair that is not of equal lengths, or not like the first of its set.

    Raises:
        InputError: it is not, or a position is outside it; the message names the pair.
    """
    where = f"pair {index} ({_short(pair.text)})"
    for name, corrupted in pair.corrupted.items():
        if len(corrupted.ids) != len(pair.ids):
            raise InputError(
                f"{where}: the clean prompt has {len(pair.ids)} tokens and the corrupted one "
                f"{name!r} ({_short(corrupted.text)}) has {len(corrupted.ids)}; patching needs "
                f"equal lengths, so replace words by words of as many tokens, or leave the pair out"
            )
    if not pair.answers:
        raise InputError(f"{where} has no answer; give the id of at least one right next token")
    if pair.positions.get(END) != len(pair.ids) - 1:
        raise InputError(
            f"{where}: END is {pair.positions.get(END)}, but the last of its {len(pair.ids)} "
            f"tokens is {len(pair.ids) - 1}"
        )
    for name, position in pair.positions.items():
        if not 0 <= position < len(pair.ids):
            raise InputError(
                f"{where}: the position {name} is {position}, outside 0..{len(pair.ids) - 1}"
            )
    for what in ("corrupted", "positions"):
        own, others = set(getattr(pair, what)), set(getattr(first, what))
        if own != others:
            raise InputError(
                f"{where} has {what} {sorted(own)}, but pair 0 has {sorted(others)}; "
                f"all pairs of a set need the same"
            )


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
