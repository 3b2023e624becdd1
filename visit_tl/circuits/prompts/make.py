"""IOI prompts of our own: made of templates, checked against the tokenizer at hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, NameOrNames, Names, Seed
from visit_tl.circuits.prompts.corrupt import NAMES_NEEDED, corrupted_names, replaced
from visit_tl.circuits.prompts.draws import Draws
from visit_tl.circuits.prompts.pair import END, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report, Usable
from visit_tl.circuits.prompts.templates import Template, choose, material
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens, pieces, token_after_space
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_SPLIT: Final = "not a single token with its space"
_SLOTS: Final = {"PLACE": "places", "OBJECT": "objects"}


@dataclass(frozen=True)
class _Words:
    """Usable words of one kind, and the id of each."""

    ids: Mapping[str, int]
    usable: Usable


@dataclass(frozen=True)
class _Maker:
    """All that one prompt is made from.

    Attributes:
        tokens: The tokenizer.
        prepend_bos: As the caller gave it.
        names: Usable names.
        fillers: Usable words for each slot, PLACE and OBJECT.
    """

    tokens: Tokens
    prepend_bos: bool | None
    names: Mapping[str, int]
    fillers: Mapping[str, tuple[str, ...]]

    def radices(self, template: Template) -> list[int]:
        """How many choices each slot leaves: IO, S among the others, and the fillers."""
        fillers = [len(words) for slot, words in self.fillers.items() if template.has(slot)]
        return [len(self.names), len(self.names) - 1, *fillers]

    def choice(self, template: Template, number: int) -> tuple[str, str, dict[str, str]]:
        """The names and fillers of one of the template's prompts, by its number."""
        digits = []
        for radix in self.radices(template):
            number, digit = divmod(number, radix)
            digits.append(digit)
        names = list(self.names)
        io = names.pop(digits[0])
        s = names[digits[1]]
        slots = [slot for slot in self.fillers if template.has(slot)]
        fillers = {
            slot: self.fillers[slot][digit] for slot, digit in zip(slots, digits[2:], strict=True)
        }
        return io, s, fillers

    def pair(self, template: Template, number: int, key: tuple[str | int, ...]) -> PromptPair:
        """One prompt and its corruptions.

        Raises:
            InputError: the tokenizer does not keep the names whole and apart in this sentence.
        """
        io, s, fillers = self.choice(template, number)
        text = template.fill((io, s, s), fillers)
        ids = self.tokens.encode(text, self.prepend_bos).ids
        where = ioi_positions(ids, self.names[io], self.names[s])
        if where is None:
            raise InputError(
                f"the names {io!r} and {s!r} are not one token each in {text!r}, once and twice: "
                f"{[self.tokens.text(i) for i in ids]}; leave out the template {template.id}, or "
                f"the name"
            )
        corrupted = {
            name: replaced(
                self.tokens,
                template.fill(names, fillers),
                self.prepend_bos,
                (ids, where),
                [self.names[name] for name in names],
            )
            for name, names in corrupted_names(io, s, list(self.names), key).items()
        }
        answers, wrong = (self.names[io],), (self.names[s],)
        return PromptPair(text, ids, answers, wrong, where, corrupted, template.id)


@checked
def ioi(
    model: Model,
    n: Count,
    *,
    seed: Seed = 0,
    templates: NameOrNames = "both",
    prepend_bos: Flag | None = None,
    same_length: Flag = False,
    names: Names | None = None,
    places: Names | None = None,
    objects: Names | None = None,
) -> PromptSet:
    """Prompts for indirect object identification, each with its corruptions.

    The task and its positions are those of Wang et al. 2022 (sec. 2): IO and S are named, S acts,
    and the next token is IO. The sentences are this package's own. No two prompts are equal, all
    templates are used equally often (to one), and the first k of n prompts are those of n = k.
    Corruptions keep the sentence, the places of the names, and the number of tokens:

    - `ABC`: three different names, none of them IO or S, at IO, S1 and S2. Nothing is repeated.
    - `flip`: S2 is replaced by the name of IO, so IO and S change roles and the right answer
      becomes S (`pair.wrong`).
    - `random-S2`: S2 is replaced by a name that is neither IO nor S.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        n: How many prompts.
        seed: Of the package's own random choices; the same seed gives the same prompts anywhere.
        templates: `both` (15 sentences in 2 orders), `ABBA` (IO is named first), `BABA`, or ids
            such as `["ABBA-07", "BABA-07"]`.
        prepend_bos: Whether a BOS is put first; None is the model's own default. Wang et al. put
            none.
        same_length: Only the templates of the token length that most of them have, so that all
            prompts are one batch.
        names: Names to use instead of the package's own. All must be single tokens after a space.
        places: The same for places, which follow "the".
        objects: The same for objects, which follow "a" or "the".

    Returns:
        The prompts; `report` says what of the words and templates was usable.

    Raises:
        InputError: a name, place or object of the caller's is not a single token; too few are;
            more prompts than there are different ones; or a bad n, seed or template.
    """
    chosen = choose(templates)
    tokens = open_tokens(model)
    own = material()
    kinds = {
        "names": _usable(tokens, "names", names, own.names, NAMES_NEEDED),
        "places": _usable(tokens, "places", places, own.places, 1),
        "objects": _usable(tokens, "objects", objects, own.objects, 1),
    }
    fillers = {slot: tuple(kinds[kind].ids) for slot, kind in _SLOTS.items()}
    maker = _Maker(tokens, prepend_bos, kinds["names"].ids, fillers)
    chosen, used = _of_one_length(maker, chosen) if same_length else (chosen, _all(chosen))
    pairs = _make(maker, chosen, n, seed)
    eos = tokens.eos
    return PromptSet(
        pairs=pairs,
        tokenizer=name_of(tokens),
        task="ioi",
        pad_id=0 if eos is None else eos,
        report=Report((*(kind.usable for kind in kinds.values()), used)),
    )


def ioi_positions(ids: Sequence[int], io: int, s: int) -> dict[str, int] | None:
    """IO, S1, S1+1, S2 and END in a prompt that has IO once and S twice; else None."""
    at_io = [at for at, token in enumerate(ids) if token == io]
    at_s = [at for at, token in enumerate(ids) if token == s]
    if io == s or len(at_io) != 1 or len(at_s) != 2 or at_io[0] > at_s[1]:
        return None
    return {
        "IO": at_io[0],
        "S1": at_s[0],
        "S1+1": at_s[0] + 1,
        "S2": at_s[1],
        END: len(ids) - 1,
    }


def _usable(
    tokens: Tokens, kind: str, given: Sequence[str] | None, own: Sequence[str], needed: int
) -> _Words:
    """The words that are single tokens; of words that the caller gave, all must be.

    Raises:
        InputError: a given one is not, or is there twice, or fewer are left than are needed.
    """
    words = own if given is None else list(given)
    repeated = [word for word, count in Counter(words).items() if count > 1]
    if repeated:
        raise InputError(f"the {kind} {', '.join(map(repr, repeated))} were given more than once")
    found = {word: token_after_space(tokens, word) for word in words}
    ids = {word: token for word, token in found.items() if token is not None}
    rejected = [word for word in words if word not in ids]
    if rejected and given is not None:
        raise InputError(
            f"these {kind} are not single tokens, with their space, of {name_of(tokens)}: "
            f"{pieces(tokens, rejected)}; leave them out or choose others"
        )
    if len(ids) < needed:
        raise InputError(
            f"{len(ids)} of {len(words)} {kind} are single tokens, with their space, of "
            f"{name_of(tokens)}, and {needed} are needed; give {kind}= of your own that are"
        )
    return _Words(ids, Usable(kind, tuple(ids), tuple(rejected), _SPLIT))


def _all(templates: Sequence[Template]) -> Usable:
    return Usable("templates", tuple(template.id for template in templates), (), "")


def _of_one_length(
    maker: _Maker, templates: Sequence[Template]
) -> tuple[tuple[Template, ...], Usable]:
    """The templates of the most frequent token length; of equally frequent ones the shortest."""
    # Every word that goes in is one token, so the first prompt of a template has the length of all.
    lengths = {template: len(maker.pair(template, 0, ("length",)).ids) for template in templates}
    counts = Counter(lengths.values())
    chosen = min(counts, key=lambda length: (-counts[length], length))
    kept = tuple(template for template in templates if lengths[template] == chosen)
    others = tuple(template.id for template in templates if lengths[template] != chosen)
    reason = f"not of {chosen} tokens"
    return kept, Usable("templates", tuple(template.id for template in kept), others, reason)


def _make(
    maker: _Maker, templates: Sequence[Template], n: int, seed: int
) -> tuple[PromptPair, ...]:
    """Different prompts, each template used equally often (to one), in random order."""
    room = {template: math.prod(maker.radices(template)) for template in templates}
    total = sum(room.values())
    taken: dict[Template, set[int]] = {template: set() for template in templates}
    pairs: list[PromptPair] = []
    if n > total:
        raise InputError(
            f"{n} prompts were asked for, but {len(templates)} templates, {len(maker.names)} names "
            f"and these fillers make only {total} different ones; give more words"
        )
    turn = 0
    while len(pairs) < n:
        free = [template for template in templates if len(taken[template]) < room[template]]
        for template in Draws("ioi", seed, "turn", turn).some(free, len(free)):
            if len(pairs) == n:
                break
            key = ("ioi", seed, "prompt", len(pairs))
            number = Draws(*key).below(room[template])
            while number in taken[template]:
                number = (number + 1) % room[template]
            taken[template].add(number)
            pairs.append(maker.pair(template, number, key))
        turn += 1
    return tuple(pairs)
