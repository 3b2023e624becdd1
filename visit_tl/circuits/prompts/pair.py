"""One prompt and its corruptions, and what must hold of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from visit_tl.circuits.prompts.unusable import MALFORMED, UNEQUAL, PairError, shorten
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


class FirstToken(NamedTuple):
    """The first of the two tokens of an answer, where the tokenizer splits answers in two.

    The prompt then ends with `token`, so that one run shows both: what came first at END - 1, and
    what comes after it at END. A first token other than `token` decides by itself.

    Attributes:
        token: The first token that does not decide; the last id of the prompt.
        right: First tokens that make the answer right, whatever follows.
        wrong: First tokens that make it wrong, whatever follows.
    """

    token: int
    right: tuple[int, ...]
    wrong: tuple[int, ...]


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
        first: Where answers are of two tokens, the first of them; `answers` and `wrong` are then
            what may follow `first.token`.
    """

    text: str
    ids: tuple[int, ...]
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    positions: Mapping[str, int]
    corrupted: Mapping[str, Corrupted]
    template: str = ""
    first: FirstToken | None = None

    @property
    def order(self) -> str:
        """`ABBA` where IO comes first, `BABA` where S does; empty where neither is known."""
        if not {"IO", "S1"} <= self.positions.keys():
            return ""
        return "ABBA" if self.positions["IO"] < self.positions["S1"] else "BABA"


def check_alone(pair: PromptPair) -> None:
    """Refuse a pair that cannot be patched, whatever set it is in.

    Raises:
        PairError: it is of unequal lengths, has no answer, or has a position outside it.
    """
    for name, corrupted in pair.corrupted.items():
        if len(corrupted.ids) != len(pair.ids):
            raise PairError(
                UNEQUAL,
                f"the clean prompt has {len(pair.ids)} tokens and the corrupted one {name!r} "
                f"({shorten(corrupted.text)}) has {len(corrupted.ids)}; patching needs equal "
                f"lengths, so replace words by words of as many tokens, or leave the pair out",
            )
    if not pair.answers and not (pair.first and pair.first.right):
        raise PairError(MALFORMED, "it has no answer; give the id of at least one right next token")
    if pair.positions.get(END) != len(pair.ids) - 1:
        raise PairError(
            MALFORMED,
            f"END is {pair.positions.get(END)}, but the last of its {len(pair.ids)} tokens is "
            f"{len(pair.ids) - 1}",
        )
    for name, position in pair.positions.items():
        if not 0 <= position < len(pair.ids):
            raise PairError(
                MALFORMED, f"the position {name} is {position}, outside 0..{len(pair.ids) - 1}"
            )
    if pair.first is not None and (len(pair.ids) < 2 or pair.ids[-1] != pair.first.token):
        raise PairError(
            MALFORMED,
            f"the first token of its answers is {pair.first.token}, so its prompt must end with it",
        )


def check(index: int, pair: PromptPair, first: PromptPair) -> None:
    """Refuse a pair that cannot be patched, or is not like the first of its set.

    Raises:
        InputError: it is not; the message names the pair.
    """
    where = f"pair {index} ({shorten(pair.text)})"
    try:
        check_alone(pair)
    except PairError as error:
        raise InputError(f"{where}: {error}") from error
    for what in ("corrupted", "positions"):
        own, others = set(getattr(pair, what)), set(getattr(first, what))
        if own != others:
            raise InputError(
                f"{where} has {what} {sorted(own)}, but pair 0 has {sorted(others)}; "
                f"all pairs of a set need the same"
            )
    if (pair.first is None) != (first.first is None):
        raise InputError(
            f"{where} has answers of {2 - (pair.first is None)} tokens, but pair 0 of "
            f"{2 - (first.first is None)}; all pairs of a set need the same"
        )
