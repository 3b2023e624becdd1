"""Prompts of the task of a reference circuit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, ReferenceName, Seed
from visit_tl.circuits.known_circuits import load
from visit_tl.circuits.prompts.colored_objects_prompts import colored_objects
from visit_tl.circuits.prompts.docstring_prompts import docstring
from visit_tl.circuits.prompts.gendered_pronoun_prompts import gendered_pronoun
from visit_tl.circuits.prompts.greater_than_prompts import greater_than
from visit_tl.circuits.prompts.ioi_prompts import ioi
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.references import Reference
from visit_tl.errors import InputError

MAKERS: Final[dict[str, Callable[..., PromptSet]]] = {
    "ioi": ioi,
    "greater-than": greater_than,
    "docstring": docstring,
    "gendered pronoun": gendered_pronoun,
    "colored objects": colored_objects,
}
"""What makes the prompts of each circuit, by `Reference.circuit`."""


@checked
def for_circuit(
    model: Model,
    reference: Reference | ReferenceName,
    n: Count,
    *,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    same_length: Flag = False,
) -> PromptSet:
    """Make prompts of the task for which a reference circuit was found.

    The call that makes the prompts of one task alone (`ioi`, `greater_than`, `docstring`,
    `gendered_pronoun`, `colored_objects`) has further options.

    Args:
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        reference: A Reference, the name of one, or of a circuit, such as `docstring`.
        n: Number of prompts.
        seed: Seed of the random choices.
        prepend_bos: Whether to prepend a BOS; None is as the reference's authors did, and the
            model's own default where that is not known.
        same_length: Make all prompts of one token length.

    Raises:
        InputError: there is no such reference, or no prompts for its circuit; or as the call that
            makes them.
    """
    maker = MAKERS.get(reference) if isinstance(reference, str) else None
    if maker is None:
        known = reference if isinstance(reference, Reference) else load(reference)
        maker = _maker(known)
        bos: Any = known.prompt.get("bos")
        prepend_bos = bos if prepend_bos is None else prepend_bos
    return maker(model, n, seed=seed, prepend_bos=prepend_bos, same_length=same_length)


def _maker(reference: Reference) -> Callable[..., PromptSet]:
    if reference.circuit in MAKERS:
        return MAKERS[reference.circuit]
    compiled = (
        ": a compiled program has tokens of its own and answers at every position, not one next "
        "word"
        if reference.circuit.startswith("tracr ")
        else ""
    )
    raise InputError(
        f"no prompts can be made for {reference.circuit!r}, the circuit of "
        f"{reference.name}{compiled}; there are prompts for {', '.join(MAKERS)}"
    )
