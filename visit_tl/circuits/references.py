"""Reference circuits: what others found in a model, as data with a source for each.

A circuit has no one truth: the same heads were coded as 182, 963 or 1041 edges, and an edge that
matters under zero ablation may not matter under resampling. So every reference is one coding, has a
name of its own and says whose it is.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import ReferenceName
from visit_tl.circuits.edges import Shape
from visit_tl.circuits.names import Edge, Part
from visit_tl.errors import FileError, InputError
from visit_tl.strict_json import parse_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Final = 1


@dataclass(frozen=True)
class Reference:
    """A circuit that someone reported, in one coding.

    Attributes:
        name: Such as `ioi-wang-2022`.
        circuit: What it is a circuit of; references with the same word are codings of one circuit.
        coding: What this coding counts, in a few words.
        model: The model that it was found in.
        shape: Of that model: layers, heads, and whether it has MLPs.
        classes: The heads by class.
        mlp_groups: The MLPs by group; empty where none is in it.
        edges: In the order of the forward pass; empty where the coding has none.
        internal: Whether the edges inside heads are counted, as ACDC does.
        task: What the model does with it.
        prompt: What else the result depends on: `bos`, `corruption`, `metric`.
        sources: Papers and files.
        notes: Where codings differ, and other traps.
    """

    name: str
    circuit: str
    coding: str
    model: str
    shape: Shape
    classes: Mapping[str, tuple[Part, ...]]
    mlp_groups: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    edges: tuple[Edge, ...] = field(default=(), repr=False)
    internal: bool = False
    task: str = ""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of blocks of the model."""
        return self.shape.n_layers

    @property
    def n_heads(self) -> int:
        """Number of heads of each block of the model."""
        return self.shape.n_heads

    @cached_property
    def class_of(self) -> Mapping[Part, str]:
        """The class of each head."""
        return {head: name for name, heads in self.classes.items() for head in heads}

    @cached_property
    def heads(self) -> tuple[Part, ...]:
        """The heads, layer by layer."""
        return tuple(sorted(self.class_of, key=lambda head: head.order))

    @cached_property
    def mlps(self) -> tuple[Part, ...]:
        """The MLPs, layer by layer."""
        found = (mlp for mlps in self.mlp_groups.values() for mlp in mlps)
        return tuple(sorted(found, key=lambda mlp: mlp.order))

    def text(self) -> str:
        """Everything but the single edges, as text."""
        lines = [f"{name:<11}{value}" for name, value in self._facts()]
        lines += [f"  {name}: {_listed(heads)}" for name, heads in self._groups()]
        return "\n".join([*lines, *(f"  - {note}" for note in self.notes)])

    __str__ = text

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head or MLP: part, kind, layer, head, class."""
        import pandas as pd

        rows = [
            {"part": str(p), "kind": p.kind, "layer": p.layer, "head": p.head, "class": name}
            for name, parts in self._groups()
            for p in parts
        ]
        columns = ["part", "kind", "layer", "head", "class"]
        frame = pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})
        return frame.set_index("part")

    def edges_dataframe(self) -> pd.DataFrame:
        """One row an edge: edge, source, target, input, and the classes at its two ends."""
        import pandas as pd

        group = {part: name for name, parts in self._groups() for part in parts}
        rows = [
            {
                "edge": str(e),
                "source": str(e.source),
                "target": str(e.target),
                "input": e.input,
                "source_class": group.get(e.source, str(e.source)),
                "target_class": group.get(e.target, str(e.target)),
            }
            for e in self.edges
        ]
        columns = ["edge", "source", "target", "input", "source_class", "target_class"]
        return pd.DataFrame(rows, columns=columns).set_index("edge")

    def _facts(self) -> list[tuple[str, str]]:
        prompt = "; ".join(f"{name}: {value}" for name, value in self.prompt.items())
        counts = f"{len(self.heads)} heads, {len(self.mlps)} MLPs, {len(self.edges)} edges"
        return [
            ("reference", self.name),
            ("coding", self.coding),
            ("model", f"{self.model}, {self.shape}"),
            ("holds", counts),
            ("task", self.task),
            ("prompt", prompt),
            ("sources", "; ".join(self.sources)),
        ]

    def _groups(self) -> list[tuple[str, tuple[Part, ...]]]:
        return [*self.classes.items(), *self.mlp_groups.items()]

    def _repr_html_(self) -> str:
        rows = [*self._facts(), *((name, _listed(parts)) for name, parts in self._groups())]
        rows += [("note", note) for note in self.notes]
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in rows
        )
        return f"<table>{cells}</table>"


def _listed(parts: tuple[Part, ...]) -> str:
    return ", ".join(map(str, parts))


def available() -> tuple[str, ...]:
    """The names of the references that come with the package, in alphabetical order."""
    return _shipped()


@checked
def load(name: ReferenceName) -> Reference:
    """A reference by its name, or one of your own from a file.

    Args:
        name: One of `available()`; or the path of a JSON file of the schema in
            docs/schema.md, given as a Path or as text that ends in `.json`.

    Raises:
        InputError: there is no reference of that name.
        FileError: the file cannot be read.
        GraphError: the file is no reference: what is missing, of the wrong type or out of range.
    """
    if not isinstance(name, str) or name.endswith(".json"):
        return _read(Path(name))
    if name not in _shipped():
        raise InputError(
            f"{name!r} is no reference circuit; there are {', '.join(_shipped())}; one of your own "
            f"is loaded by the path of its .json file"
        )
    return _load_shipped(name)


def codings_of(circuit: str) -> tuple[Reference, ...]:
    """Every shipped reference that codes the same circuit, such as `ioi`."""
    return tuple(ref for name in _shipped() if (ref := _load_shipped(name)).circuit == circuit)


@cache
def _shipped() -> tuple[str, ...]:
    folder = resources.files("visit_tl.circuits") / "data"
    names = (file.name for file in folder.iterdir() if file.name.endswith(".json"))
    return tuple(sorted(name.removesuffix(".json") for name in names))


@cache
def _load_shipped(name: str) -> Reference:
    from visit_tl.circuits.schema import from_json

    file = resources.files("visit_tl.circuits") / "data" / f"{name}.json"
    return from_json(json.loads(file.read_text(encoding="utf-8")), name)


def _read(path: Path) -> Reference:
    from visit_tl.circuits.schema import from_json
    from visit_tl.errors import GraphError

    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"the reference {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise GraphError(f"the reference {path} is not UTF-8 text: {error}") from error
    except ValueError as error:  # NUL in the path
        raise FileError(f"the reference {str(path)!r} cannot be read: {error}") from error
    try:
        data = parse_json(text)
    except ValueError as error:
        raise GraphError(f"the reference {path} is no JSON: {error}") from error
    return from_json(data, str(path))
