"""Make IOI prompts from templates, and check them with the model's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, NameOrNames, Names, Seed
from visit_tl.circuits.prompts.corrupt import NAMES_NEEDED, corrupted_names, replaced
from visit_tl.circuits.prompts.different_pairs import (
    Key,
    all_usable,
    different_pairs,
    digits_of,
    distinct,
    of_one_length,
    radices_of,
)
from visit_tl.circuits.prompts.ioi_positions import ioi_positions
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report
from visit_tl.circuits.prompts.templates import Template, choose, material
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
from visit_tl.circuits.prompts.word_lists import usable_words
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_SLOTS: Final = {"PLACE": "places", "OBJECT": "objects"}


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
        return [*radices_of(len(self.names), 2), *fillers]

    def choice(self, template: Template, number: int) -> tuple[str, str, dict[str, str]]:
        """IO, S and the fillers of the template's prompt with this number (mixed radix)."""
        digits = digits_of(number, self.radices(template))
        io, s = distinct(list(self.names), digits[:2])
        slots = [slot for slot in self.fillers if template.has(slot)]
        fillers = {
            slot: self.fillers[slot][digit] for slot, digit in zip(slots, digits[2:], strict=True)
        }
        return io, s, fillers

    def pair(self, template: Template, number: int, key: Key) -> PromptPair:
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
        "names": usable_words(tokens, "names", names, own.names, NAMES_NEEDED),
        "places": usable_words(tokens, "places", places, own.places, 1),
        "objects": usable_words(tokens, "objects", objects, own.objects, 1),
    }
    fillers = {slot: tuple(kinds[kind].ids) for slot, kind in _SLOTS.items()}
    maker = _Maker(tokens, prepend_bos, kinds["names"].ids, fillers)
    chosen, used = of_one_length(maker, chosen) if same_length else (chosen, all_usable(chosen))
    pairs = different_pairs("ioi", maker, chosen, n, seed, f"{len(maker.names)} names")
    eos = tokens.eos
    return PromptSet(
        pairs=pairs,
        tokenizer=name_of(tokens),
        task="ioi",
        pad_id=0 if eos is None else eos,
        report=Report((*(kind.usable for kind in kinds.values()), used)),
    )
