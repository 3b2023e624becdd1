"""Make IOI prompts from templates, and check them with the model's tokenizer."""

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
from visit_tl.circuits.prompts.ioi_positions import ioi_positions
from visit_tl.circuits.prompts.pair import PromptPair
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
    """Usable words of one kind with their token ids."""

    ids: Mapping[str, int]
    usable: Usable


@dataclass(frozen=True)
class _Maker:
    """Makes prompts from a template, names and fillers.

    Attributes:
        tokens: The tokenizer.
        prepend_bos: As the caller gave it.
        names: Usable names with their token ids.
        fillers: Usable words for each slot, PLACE and OBJECT.
    """

    tokens: Tokens
    prepend_bos: bool | None
    names: Mapping[str, int]
    fillers: Mapping[str, tuple[str, ...]]

    def radices(self, template: Template) -> list[int]:
        """Number of choices for each slot: IO, S (any name except IO), and the fillers."""
        fillers = [len(words) for slot, words in self.fillers.items() if template.has(slot)]
        return [len(self.names), len(self.names) - 1, *fillers]

    def choice(self, template: Template, number: int) -> tuple[str, str, dict[str, str]]:
        """IO, S and the fillers of the template's prompt with this number (mixed radix)."""
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
        """Make one prompt and its corruptions.

        Raises:
            InputError: the prompt does not contain IO as one token once and S as one token twice.
        """
        io, s, fillers = self.choice(template, number)
        text = template.fill((io, s, s), fillers)
        ids = self.tokens.encode(text, self.prepend_bos).ids
        where = ioi_positions(ids, self.names[io], self.names[s])
        if where is None:
            raise InputError(
                f"the names {io!r} (once) and {s!r} (twice) are not one token each in {text!r}: "
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
    """Make prompts for indirect object identification (IOI), each with its corruptions.

    The task and its positions are those of Wang et al. 2022 (sec. 2): a sentence names IO and S,
    then S does something, and the next token is IO. The sentences are this package's own. All
    prompts are different, the numbers of prompts per template differ by at most one, and the first
    k of n prompts are the same as those of n = k. Corruptions keep the sentence, the positions of
    the names, and the number of tokens:

    - `ABC`: three different names, none of them IO or S, at IO, S1 and S2. No name is repeated.
    - `flip`: S2 is replaced by the name of IO, so IO and S change roles and the right answer
      becomes S (`pair.wrong`).
    - `random-S2`: S2 is replaced by a name that is neither IO nor S.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        n: Number of prompts.
        seed: Seed of the random choices; the same seed gives the same prompts on every machine.
        templates: `both` (15 sentences in 2 orders), `ABBA` (IO is named first), `BABA`, or ids
            such as `["ABBA-07", "BABA-07"]`.
        prepend_bos: Whether to prepend a BOS; None is the model's own default. Wang et al. did not.
        same_length: Use only templates with the most frequent token length, so that all prompts
            form one batch.
        names: Names to use instead of the package's own. All must be single tokens after a space.
        places: The same for places, which follow "the".
        objects: The same for objects, which follow "a" or "the".

    Returns:
        The prompts; `report` lists which words and templates were usable.

    Raises:
        InputError: a name, place or object that was given is not a single token or is repeated; too
            few are single tokens; n is larger than the number of different prompts; or n, seed or
            a template is invalid.
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
    chosen, used = _of_one_length(maker, chosen) if same_length else (chosen, _all_usable(chosen))
    pairs = _make(maker, chosen, n, seed)
    eos = tokens.eos
    return PromptSet(
        pairs=pairs,
        tokenizer=name_of(tokens),
        task="ioi",
        pad_id=0 if eos is None else eos,
        report=Report((*(kind.usable for kind in kinds.values()), used)),
    )


def _usable(
    tokens: Tokens, kind: str, given: Sequence[str] | None, own: Sequence[str], needed: int
) -> _Words:
    """Select the words that are single tokens; words that the caller gave must all be.

    Raises:
        InputError: a given word is not a single token, a word is repeated, or too few words are
            left.
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
            f"these {kind} are not single tokens of {name_of(tokens)} after a space: "
            f"{pieces(tokens, rejected)}; leave them out or choose others"
        )
    if len(ids) < needed:
        raise InputError(
            f"{len(ids)} of {len(words)} {kind} are single tokens of {name_of(tokens)} after a "
            f"space, and {needed} are needed; give {kind}= of your own that are"
        )
    return _Words(ids, Usable(kind, tuple(ids), tuple(rejected), _SPLIT))


def _all_usable(templates: Sequence[Template]) -> Usable:
    return Usable("templates", tuple(template.id for template in templates), (), "")


def _of_one_length(
    maker: _Maker, templates: Sequence[Template]
) -> tuple[tuple[Template, ...], Usable]:
    """The templates with the most frequent token length; of equally frequent ones the shortest."""
    # Every inserted word is one token, so all prompts of a template have the length of the first.
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
    """Make n different prompts in random order; uses per template differ by at most one."""
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
