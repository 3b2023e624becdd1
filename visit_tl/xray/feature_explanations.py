"""What somebody says that features are: dicts, JSON files, and what Neuronpedia exports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from visit_tl.arguments.words import short
from visit_tl.errors import FileError, GraphError, InputError
from visit_tl.files import home
from visit_tl.graph.ids import FeatureSite, NodeId
from visit_tl.strict_json import parse_json
from visit_tl.xray.feature_sites import FeatureSites

_DIGITS: Final = 18
Place = tuple[int, FeatureSite]
Explanations = dict[Place, dict[int, str]]


def explanations_of(labels: Any, sites: FeatureSites) -> Explanations:
    """Read labels of features, and find the sites that they are of.

    Args:
        labels: None; a dict from ids (`L9.z.F123`) or, with one module, indices (`123`) to texts; a
            list of Neuronpedia's explanations (objects with `index`, `description` and, where there
            are several modules, `layer`); or the path of a JSON file with one of these.
        sites: The modules of the graph.

    Raises:
        InputError: they are something else, or one of them cannot be placed.
        FileError: the file cannot be read.
    """
    if labels is None:
        return {}
    found = _read(labels) if isinstance(labels, str | Path) else labels
    if isinstance(found, Mapping):
        pairs = [(_place(key, sites), text) for key, text in found.items()]
    elif isinstance(found, list | tuple):
        pairs = [one for row in found if (one := _of_neuronpedia(row, sites)) is not None]
    else:
        raise InputError(
            f"labels must be a dict, a list or the path of a JSON file, {_got(labels)}"
        )
    read: Explanations = defaultdict(dict)
    for (place, index), text in pairs:
        if not isinstance(text, str):
            raise InputError(f"the label of feature {index} is {short(text)}, not a text")
        # Several explanations of one feature come the newest last.
        read[place][index] = text
    return dict(read)


def _read(path: str | Path) -> Any:
    try:
        if home(path).is_fifo():  # it may never come to an end
            raise ValueError("it is a pipe")
        return parse_json(home(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"labels cannot be read from {path}: {error}") from error


def _got(value: Any) -> str:
    return f"got {short(value)}"


def _place(key: Any, sites: FeatureSites) -> tuple[Place, int]:
    """The site and the index that a key of a dict means."""
    text = str(key)
    if type(key) is int or (text.isascii() and text.isdigit()):
        if len(sites.by_place) > 1:
            raise InputError(
                f"the label of {text} could be of any of the {len(sites.by_place)} SAEs; write its "
                f"id, such as L9.z.F{text}"
            )
        place = next(iter(sites.by_place))
        return place, _within(key, place, sites)
    try:
        node = NodeId.parse(text)
    except GraphError:
        node = None
    if node is None or node.layer is None or node.site is None or node.neuron is None:
        raise InputError(f"{short(key)} is no feature; labels are of ids such as L9.z.F123, or 123")
    place = node.layer, node.site
    if place not in sites.by_place:
        known = ", ".join(f"L{layer}.{site}" for layer, site in sites.by_place)
        raise InputError(f"the label of {node} is of no SAE of this graph; they are at {known}")
    return place, _within(node.neuron, place, sites)


def _within(given: Any, place: Place, sites: FeatureSites) -> int:
    module = sites.by_place[place].module
    # More digits are of no feature, and of thousands of them Python makes no number.
    index = int(given) if len(str(given)) <= _DIGITS else -1
    if not 0 <= index < module.n_features:
        raise InputError(
            f"there is a label of feature {short(given)}, and {module.name} has "
            f"0..{module.n_features - 1}"
        )
    return index


def _of_neuronpedia(row: Any, sites: FeatureSites) -> tuple[tuple[Place, int], Any] | None:
    """One explanation of Neuronpedia; None if it is of none of the modules."""
    if not isinstance(row, Mapping) or "index" not in row or "description" not in row:
        raise InputError(
            f"a list of labels holds Neuronpedia's explanations, objects with index and "
            f"description, {_got(row)}"
        )
    text = str(row["index"])
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"an explanation has the index {short(row['index'])}, no number")
    said = row.get("layer")
    for place, site in sites.by_place.items():
        known = site.module.neuronpedia_id
        ours = known is not None and known.rpartition("/")[2] == said
        if ours or (len(sites.by_place) == 1 and (said is None or known is None)):
            return (place, _within(row["index"], place, sites)), row["description"]
    return None
