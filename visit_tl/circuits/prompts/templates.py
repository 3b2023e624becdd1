"""The sentences, names, places and objects that IOI prompts are made of; see data/ioi.json."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from visit_tl.errors import InputError

ORDERS: Final = ("ABBA", "BABA")


@dataclass(frozen=True)
class Template:
    """A sentence with its names in one order.

    Attributes:
        id: Such as `ABBA-07`.
        order: `ABBA`: IO is named first; `BABA`: S is.
        text: The sentence with the slots {IO}, {S1}, {S2}, and in some templates {PLACE} and
            {OBJECT}.
    """

    id: str
    order: str
    text: str

    def has(self, slot: str) -> bool:
        """Whether the sentence has this slot."""
        return f"{{{slot}}}" in self.text

    def fill(self, names: Sequence[str], fillers: Mapping[str, str]) -> str:
        """Fill in the names for IO, S1 and S2, and the fillers by slot."""
        return self.text.format(IO=names[0], S1=names[1], S2=names[2], **fillers)


@dataclass(frozen=True)
class Material:
    """The content of data/ioi.json."""

    templates: tuple[Template, ...]
    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]


@functools.cache
def material() -> Material:
    """The package's own sentences, each in both orders (ABBA first), and its words."""
    file = resources.files("visit_tl.circuits.prompts") / "data" / "ioi.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    return Material(
        templates=tuple(
            _template(sentence["id"], sentence["text"], order)
            for order in ORDERS
            for sentence in data["sentences"]
        ),
        names=tuple(data["names"]),
        places=tuple(data["places"]),
        objects=tuple(data["objects"]),
    )


def choose(wanted: str | Sequence[str]) -> tuple[Template, ...]:
    """Choose templates by their order (`both`, `ABBA`, `BABA`) or by their ids.

    Raises:
        InputError: an order or id does not exist, or none was given.
    """
    every = material().templates
    if wanted in ("both", ["both"]):
        return every
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    if len(wanted) == 1 and wanted[0] in ORDERS:
        return tuple(template for template in every if template.order == wanted[0])
    by_id = {template.id: template for template in every}
    unknown = [name for name in wanted if name not in by_id]
    if unknown or not wanted:
        raise InputError(
            f"there are no templates {', '.join(map(repr, unknown)) or '(none were given)'}; "
            f"choose 'both', 'ABBA', 'BABA', or ids from {every[0].id} to {every[-1].id}"
        )
    return tuple(by_id[name] for name in dict.fromkeys(wanted))


def _template(number: str, text: str, order: str) -> Template:
    first, second = ("{IO}", "{S1}") if order == "ABBA" else ("{S1}", "{IO}")
    text = text.replace("{S}", "{S2}").replace("{A}", first).replace("{B}", second)
    return Template(f"{order}-{number}", order, text)
