"""One prompt with its corruptions, and the checks that it must pass."""

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
        text: The text that was tokenised.
        ids: Token ids, as many as in the clean prompt.
    """

    text: str
    ids: tuple[int, ...]


class FirstToken(NamedTuple):
    """The first token of two-token answers, if the tokenizer splits each answer in two.

    The prompt then ends with `token`, so one run predicts both tokens: the first at END - 1, and
    the second after `token` at END. Any other first token in `right` or `wrong` decides alone.

    Attributes:
        token: The first token after which the second one decides; the last id of the prompt.
        right: First tokens that make the answer right, whatever follows.
        wrong: First tokens that make the answer wrong, whatever follows.
    """

    token: int
    right: tuple[int, ...]
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and its corruptions.

    Attributes:
        text: The clean prompt.
        ids: Its token ids, including a BOS if one was prepended.
        answers: Ids of the right next tokens; for IOI the id of IO.
        wrong: Ids of the wrong next tokens; for IOI the id of S.
        positions: Indices into `ids`, by name. END, the last one, is always there; IOI prompts also
            have IO, S1, S1+1 and S2.
        corrupted: The corrupted prompts, by the name of the corruption.
        template: Id of its template, such as `ABBA-07`; empty if unknown.
        first: The first tokens, if answers have two tokens; `answers` and `wrong` are then the
            second tokens after `first.token`. None if answers have one token.
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
        """`ABBA` if IO comes first, `BABA` if S does; empty without these positions."""
        if not {"IO", "S1"} <= self.positions.keys():
            return ""
        return "ABBA" if self.positions["IO"] < self.positions["S1"] else "BABA"


def check_alone(pair: PromptPair) -> None:
    """Check that a pair is valid by itself and can be patched.

    Raises:
        PairError: its prompts have different lengths, it has no answer, END is not its last
            position, a position is outside it, or it does not end with `first.token`.
    """
    for name, corrupted in pair.corrupted.items():
        if len(corrupted.ids) != len(pair.ids):
            raise PairError(
                UNEQUAL,
                f"the clean prompt has {len(pair.ids)} tokens and the corrupted one {name!r} "
                f"({shorten(corrupted.text)}) has {len(corrupted.ids)}; patching needs equal "
                f"lengths, so use words with the same number of tokens, or leave the pair out",
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
    """Check that a pair is valid and has the same structure as the first pair of its set.

    Raises:
        InputError: the pair fails the check; the message gives its number and text.
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
