"""The lens for whatever form a caller gives it in, held against the model that it will read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.graph.lens_record import EMBEDDING, needed_blocks
from visit_tl.lenses.lens_files import load
from visit_tl.lenses.maps import Lens
from visit_tl.lenses.transformer_lens_format import of_jacobian_lens
from visit_tl.model.facts import revision
from visit_tl.model.view import ModelView

OWN: Final = "own lens"
"""Name of a lens that was given as matrices."""
_OWNED: Final = re.compile(r"[\w.-]+/[\w.-]+")
"""A name on the hub with its owner."""
_CENTRED: Final = 1e-5
"""Largest mean of a row of W_O, in root mean squares of its entries, of a centred model. Rounding
leaves 1e-7; rows of models that were not centred have 1e-2 and more."""


def lens_of(view: ModelView, given: Any, layers: Sequence[int] | None = None) -> Lens | None:
    """The lens that a caller gave, if it fits the model.

    Args:
        view: The model.
        given: A `Lens`; the path of a file or folder; a `JacobianLens` of TransformerLens; a dict
            of matrices by block; a function that gives the matrix of a block; None for the logit
            lens.
        layers: Blocks of a graph; it must have the maps that these need. None asks for none.

    Returns:
        The lens; None is the logit lens.

    Raises:
        InputError: it is none of these, or does not fit the model; the message says why.
        FileError: the file cannot be read.
    """
    if given is None:
        return None
    lens = _read(view, given)
    _require_fit(view, lens)
    if layers is not None:
        needed = needed_blocks(tuple(layers), view.n_layers)
        if missing := [block for block in needed if block not in lens.maps]:
            raise InputError(
                f"{lens!r} has no map of block {missing[0]}, which these layers need; it has "
                f"{_ranges(lens.blocks)}: leave other layers out with layers="
            )
    return lens


def _read(view: ModelView, given: Any) -> Lens:
    if isinstance(given, Lens):
        return given
    if isinstance(given, str | os.PathLike):
        return load(os.fspath(given))
    if isinstance(given, Mapping):
        return Lens(OWN, given)
    if all(hasattr(given, name) for name in ("jacobians", "d_model", "source_layers")):
        return of_jacobian_lens(given)
    if callable(given):
        return Lens(OWN, _called(view, given))
    raise InputError(
        f"a lens is what visit_tl.lenses.load or fit gives, a path, a JacobianLens of "
        f"TransformerLens, a dict of matrices by block, or a function of a block, got "
        f"{short(given)}"
    )


def _called(view: ModelView, given: Callable[[int], Any]) -> dict[int, Any]:
    """The matrices that a function gives, for all blocks but the last.

    Raises:
        InputError: it fails.
    """
    blocks = range(view.n_layers - 1)
    try:
        return {block: given(block) for block in blocks}
    except Exception as error:
        raise InputError(
            f"the lens was given as a function, {short(given)}, which must take the number of a "
            f"block and give its matrix [d_model, d_model]; it failed: {error}"
        ) from error


def _require_fit(view: ModelView, lens: Lens) -> None:
    """Refuse a lens of another model.

    Raises:
        InputError: the model has another width, other blocks, another name or another revision, or
            its residual stream was centred and the lens is of activations that were not.
    """
    whose = f"{lens!r} does not fit {view.name}"
    if lens.d_model != view.d_model:
        raise InputError(f"{whose}, whose residual stream is {view.d_model} wide")
    last = view.n_layers - 1
    if lens.n_layers is not None and lens.n_layers != view.n_layers:
        raise InputError(f"{whose}: it is of {lens.n_layers} blocks, the model has {view.n_layers}")
    if outside := [block for block in lens.blocks if not EMBEDDING <= block < last]:
        raise InputError(
            f"{whose}: it has a map of block {outside[0]}, and maps are of the blocks 0..{last - 1}"
            f" (-1 is the embedding; the output of block {last} is read as it is)"
        )
    own = str(getattr(view.model.cfg, "model_name", None) or view.name)
    if lens.model is not None and _last_part(lens.model) not in map(_last_part, (own, view.name)):
        raise InputError(
            f"{whose}: it is of {lens.model!r}. If this is the same model under another name, "
            f"pass dataclasses.replace(lens, model=None)"
        )
    ours = revision(view.model)
    if lens.model and _differ(lens.revision, ours) and not _other_owner(lens.model, own):
        raise InputError(
            f"{whose} as it was loaded: the lens was fitted on revision {lens.revision} of "
            f"{lens.model!r}, the model is of revision {ours}. Load the other one (revision=), or, "
            f"if the weights are the same, pass dataclasses.replace(lens, model=None)"
        )
    if lens.raw and _is_centred(view):
        raise InputError(
            f"{whose} as it was loaded: the lens is of the model's own activations, and loading "
            f"centred the residual stream (center_writing_weights). Load the model without it: "
            f"TransformerBridge.boot_transformers, HookedTransformer.from_pretrained_no_processing"
        )


def _last_part(name: str) -> str:
    """A model's name without its owner or folder: `openai-community/GPT2` is `gpt2`."""
    return PurePosixPath(name.replace("\\", "/").rstrip("/")).name.lower()


def _other_owner(one: str, other: str) -> bool:
    """Whether two names are of repositories of different owners, whose commits say nothing."""
    names = (one.lower(), other.lower())
    return all(map(_OWNED.fullmatch, names)) and names[0] != names[1]


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two commits are known and not the same; one of them may be shortened."""
    if one is None or other is None:
        return False
    known = min(len(one), len(other))
    return one[:known].lower() != other[:known].lower()


def _is_centred(view: ModelView) -> bool:
    """Whether everything that the first attention writes has mean 0, as centring leaves it."""
    rows = view.weights(0).W_O.flatten(0, 1)
    sizes = rows.pow(2).mean(-1).sqrt()
    alive = rows[sizes > 0]
    if not len(alive):
        return False
    return bool((alive.mean(-1).abs() <= _CENTRED * sizes[sizes > 0]).all())


def _ranges(blocks: Sequence[int]) -> str:
    """Numbers in order, with ranges: `0..3, 7`."""
    parts: list[list[int]] = []
    for block in blocks:
        if parts and parts[-1][-1] == block - 1:
            parts[-1] = [parts[-1][0], block]
        else:
            parts.append([block])
    return ", ".join("..".join(map(str, part)) for part in parts)
