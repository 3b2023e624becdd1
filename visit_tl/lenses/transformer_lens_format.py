"""Jacobian lenses of TransformerLens: its objects, its artifacts and its checkpoints of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from visit_tl.arguments.words import short
from visit_tl.errors import FileError, InputError
from visit_tl.lenses.maps import Lens

if TYPE_CHECKING:
    from typing import TypeGuard

NAME: Final = "Jacobian lens"
_PLAIN: Final = (str, int, float, bool, type(None))


def of_jacobian_lens(given: Any) -> Lens:
    """The lens of a `transformer_lens.tools.analysis.JacobianLens`, by its attributes.

    Raises:
        InputError: its attributes do not fit together.
    """
    jacobians, facts = given.jacobians, getattr(given, "metadata", None) or {}
    if not isinstance(jacobians, Mapping) or not isinstance(facts, Mapping):
        raise InputError(f"the jacobians of a {type(given).__name__} are no dict by layer")
    n_prompts = getattr(given, "n_prompts", None)
    lens = _lens(jacobians, {**facts, "n_prompts": n_prompts}, 1)
    if given.d_model != lens.d_model or list(given.source_layers) != list(lens.blocks):
        raise InputError(
            f"a {type(given).__name__} says d_model {given.d_model} and layers "
            f"{given.source_layers}, and its matrices say {lens.d_model} and {list(lens.blocks)}"
        )
    return lens


def of_payload(payload: Mapping[str, Any], where: str) -> Lens:
    """The lens of the dict that an artifact or a checkpoint holds.

    Raises:
        FileError: a key is missing, or what it holds is of the wrong type, shape or size.
    """
    if "J" not in payload and "jacobian_sum" not in payload:
        raise FileError(f"{where} holds no matrices by layer under 'J' or 'jacobian_sum'")
    facts = _metadata(payload, where)
    if "J" in payload:
        maps, count, parts = payload["J"], payload.get("n_prompts"), 1
    else:
        maps, count = payload["jacobian_sum"], payload.get("n_done")
        facts = {**facts, "target_layer": payload.get("target_layer", facts.get("target_layer"))}
        if not _is_whole(count) or count < 1:
            raise FileError(
                f"{where} is of a fit with {short(count)} prompts done; it needs at least 1"
            )
        parts = count
    if not isinstance(maps, Mapping) or not maps:
        raise FileError(f"{where} holds no matrices by layer, but {type(maps).__name__}")
    if count is not None and not _is_whole(count):
        raise FileError(f"{where}: the number of prompts is {short(count)}, not an integer")
    try:
        lens = _lens(maps, {**facts, "n_prompts": count}, parts)
    except InputError as error:
        raise FileError(f"{where}: {error}") from error
    if (width := payload.get("d_model", lens.d_model)) != lens.d_model:
        raise FileError(f"{where}: d_model is {short(width)}, but its maps are {lens.d_model} wide")
    if (layers := payload.get("source_layers")) is not None and (
        not isinstance(layers, list | tuple) or list(layers) != list(lens.blocks)
    ):
        raise FileError(
            f"{where}: source_layers are {short(layers)}, its maps are of {lens.blocks}"
        )
    return lens


def _lens(jacobians: Mapping[Any, Any], facts: Mapping[str, Any], parts: int) -> Lens:
    """The lens of matrices that are sums over so many prompts.

    Raises:
        InputError: they are no finite square matrices of one width.
    """
    if parts > 1:
        jacobians = {
            block: matrix.float() / parts if isinstance(matrix, Tensor) else matrix
            for block, matrix in jacobians.items()
        }
    if any(isinstance(block, int) and block < 0 for block in jacobians):
        raise InputError("a Jacobian lens has matrices of the outputs of blocks, from 0 on")
    model, target = facts.get("model_name"), facts.get("target_layer")
    return Lens(
        NAME,
        jacobians,
        model=model if isinstance(model, str) and model else None,
        n_layers=target + 1 if _is_whole(target) else None,
        raw=True,
        facts={name: value for name, value in facts.items() if isinstance(value, _PLAIN)},
    )


def _metadata(payload: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    facts = payload.get("metadata") or {}
    if not isinstance(facts, Mapping) or not all(isinstance(name, str) for name in facts):
        raise FileError(f"{where}: 'metadata' is no dict by name")
    flat = ("model_name", "model_revision", "corpus")
    return {**{name: payload[name] for name in flat if name in payload}, **facts}


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
