"""Facts that a model knows, and edits of them, from the facts of Meng et al. (2022) in data/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Count, Flag, Model
from visit_tl.errors import InputError
from visit_tl.gradients.shift_grid import Edit
from visit_tl.model.last_logits import last_logits
from visit_tl.model.tokens import Tokens
from visit_tl.model.view import ModelView

_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Fact:
    """A prompt and how it goes on.

    Attributes:
        prompt: The prompt, which holds the subject.
        subject: The subject.
        target: The attribute, with a leading space.
        relation: Id of the relation in Wikidata.
    """

    prompt: str
    subject: str
    target: str
    relation: str

    @property
    def template(self) -> str:
        """The prompt with `{}` in the place of the subject."""
        return self.prompt.replace(self.subject, "{}", 1)


Facts = Annotated[
    Sequence[Any],
    Taken("a list of Fact, as known_facts gives it", "", "Many", form=plain.many),
]


@checked
def known_facts(
    model: Model,
    n: Count | None = None,
    *,
    one_token: Flag = False,
    prepend_bos: Flag | None = None,
) -> list[Fact]:
    """The facts that a model continues correctly itself, in the order of their file.

    A continuation is correct if the most probable token is the first of the attribute, written with
    a space before it.

    Args:
        model: As for `flow_graph`.
        n: How many at most; None is all. No more prompts are run than are needed.
        one_token: Only facts whose attribute is one token.
        prepend_bos: As for `flow_graph`.
    """
    view = ModelView(model)
    asked = [
        fact for fact in all_facts() if not one_token or len(view.tokens.split(fact.target)) == 1
    ]
    known: list[Fact] = []
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        ids = [view.tokens.encode(fact.prompt, prepend_bos).ids for fact in part]
        said = last_logits(view, ids).argmax(-1).tolist()
        known += [
            fact
            for fact, token in zip(part, said, strict=True)
            if token == view.tokens.split(fact.target)[0]
        ]
        if n is not None and len(known) >= n:
            return known[:n]
    return known


@checked
def edits(model: Model, facts: Facts, n: Count, *, most: Count = 5) -> list[Edit]:
    """Make edits for `shift_sweep`: a false target for each of some facts.

    The false target is another attribute of the same relation, one token of the model. Paraphrases
    are the other templates of the relation with the same subject. Neighbours are facts of the same
    relation about other subjects, from those that were given, whose target is not the false one.
    The same arguments give the same edits.

    Args:
        model: As for `flow_graph`; its tokenizer decides which targets are one token.
        facts: What `known_facts` gave: neighbours should be known to the model.
        n: How many edits; fewer come back where too few facts have a false target, a paraphrase and
            a neighbour.
        most: The most paraphrases of an edit, and the most neighbours.

    Raises:
        InputError: something else than a `Fact` is among the facts.
    """
    view = ModelView(model)
    for fact in facts:
        if not isinstance(fact, Fact):
            raise InputError(f"facts are visit_tl.studies.Fact, got {type(fact).__name__}")
    found: list[Edit] = []
    for i, fact in enumerate(facts):
        false = _false_target(view.tokens, fact, i)
        templates = dict.fromkeys(o.template for o in all_facts() if o.relation == fact.relation)
        templates.pop(fact.template, None)
        near = [
            (o.prompt, o.target)
            for o in (*facts[i + 1 :], *facts[:i])
            if o.relation == fact.relation and o.subject != fact.subject and o.target != false
        ]
        if false is None or not templates or not near:
            continue
        same = tuple(template.replace("{}", fact.subject) for template in list(templates)[:most])
        found.append(Edit(fact.prompt, false, same, tuple(near[:most])))
        if len(found) == n:
            break
    return found


def _false_target(tokens: Tokens, fact: Fact, i: int) -> str | None:
    """Another attribute of the fact's relation that is one token; None if there is none."""
    others = sorted({o.target for o in all_facts() if o.relation == fact.relation} - {fact.target})
    true = tokens.split(fact.target)[0]
    usable = [o for o in others if len(ids := tokens.split(o)) == 1 and ids[0] != true]
    return usable[i % len(usable)] if usable else None


@cache
def all_facts() -> tuple[Fact, ...]:
    """All facts, those twice in the file once."""
    file = resources.files("visit_tl.studies") / "data" / "facts.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    facts = (
        Fact(row["prompt"], row["subject"], f" {row['attribute']}", row["relation_id"])
        for row in rows
    )
    return tuple(dict.fromkeys(facts))
