"""Attention patching: add a map to the attention of heads, after the softmax.

With the reversed attention R of a loss and a negative alpha, `A + alpha R` is a step that lowers
the loss (Katz and Wolf, 2025). Rows still sum to 1, since those of R sum to 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.vocabulary import Flag, Layers, Model, Number, PromptsLike, TargetsOrMetric
from visit_tl.errors import InputError
from visit_tl.gradients.attention_gradients import reversed_maps
from visit_tl.gradients.loss import Loss
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.graph.ids import NodeId, NodeNames, node_ids
from visit_tl.model.added_attention import attention_added
from visit_tl.model.view import ModelView

AnyMaps = Annotated[Any, Unchecked("gradients.patched_attention.maps_by_layer says what it takes")]


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """Maps of every head, averaged over prompts of one length.

    Attributes:
        reversed: The mean of R.
        forward: The mean of the attention A.
        n_prompts: How many prompts.
    """

    reversed: Float[np.ndarray, "layer head query key"] = field(repr=False)
    forward: Float[np.ndarray, "layer head query key"] = field(repr=False)
    n_prompts: int


@contextmanager
@checked
def attention_patching(
    model: Model, maps: AnyMaps, alpha: Number = -30.0, *, heads: NodeNames | None = None
) -> Iterator[Any]:
    """Add `alpha` times a map to the attention of heads, in every run of the model inside.

        maps = vt.reversed_attention(model, prompt, " Paris")
        with vt.gradients.attention_patching(model, maps, alpha=-30) as patched:
            patched(prompt)
            vt.flow_graph(patched, prompt)

    The hooks are on the caller's model itself and are gone afterwards. Runs inside must have as
    many tokens as the maps, or be the last rows of such a run.

    Args:
        model: As for `flow_graph`.
        maps: A `ReversedAttention`; the `MeanMaps` of several prompts, whose reversed maps are
            taken; or an array `[layer, head, query, key]` of all layers and heads.
        alpha: Factor of the maps; negative lowers the loss that they are of.
        heads: Ids of the heads that are patched; None is every head of the maps.

    Yields:
        The model.

    Raises:
        InputError: maps of another shape, or a head that is not there.
        ModelError: the attention of this model cannot be patched.
    """
    view = ModelView(model)
    chosen = maps_by_layer(view, maps, heads)
    with attention_added(view, {layer: alpha * one.float() for layer, one in chosen.items()}):
        yield view.model


def maps_by_layer(
    view: ModelView, maps: Any, heads: Any = None
) -> dict[int, Float[Tensor, "head query key"]]:
    """The maps to add, by layer; heads that are not chosen are 0.

    Raises:
        InputError: maps of another shape, or a head that is not there.
    """
    view.require_attention("attention patching")
    if isinstance(maps, ReversedAttention):
        found = {i: torch.as_tensor(m) for i, m in zip(maps.layers, maps.maps(), strict=True)}
    else:
        whole = _tensor(maps.reversed if isinstance(maps, MeanMaps) else maps)
        n = whole.shape[-1] if whole.ndim else 0
        if whole.shape != (view.n_layers, view.n_heads, n, n):
            raise InputError(
                f"maps are a ReversedAttention or [layer, head, query, key], here "
                f"[{view.n_layers}, {view.n_heads}, pos, pos]; got {list(whole.shape)}"
            )
        found = dict(enumerate(whole))
    for layer, one in found.items():
        if one.shape[0] != view.n_heads or layer >= view.n_layers:
            raise InputError(f"the maps are of another model than {view.name}: {list(one.shape)}")
        if not torch.isfinite(one).all():
            raise InputError(f"the maps of layer {layer} are not finite")
    if heads is None:
        return found
    kept: dict[int, Tensor] = {}
    for node in (NodeId.parse(one) for one in node_ids(plain.nodes(heads))):
        layer, head = node.layer, node.head
        if node.kind != "head" or layer not in found or head is None or head >= view.n_heads:
            raise InputError(f"{node} is no head of the maps, which have the layers {list(found)}")
        kept.setdefault(layer, torch.zeros_like(found[layer]))[head] = found[layer][head]
    return kept


def _tensor(maps: Any) -> Tensor:
    """An array of numbers as a tensor; one of no axes for anything else."""
    try:
        found = maps.detach() if isinstance(maps, Tensor) else torch.as_tensor(np.asarray(maps))
        return found.cpu().float()
    except Exception:  # whatever else was given may fail in any way
        return torch.zeros(())


@checked
def mean_maps(
    model: Model,
    prompts: PromptsLike,
    targets: TargetsOrMetric | None = None,
    *,
    layers: Layers | None = None,
    prepend_bos: Flag | None = None,
    verbose: Flag = True,
) -> MeanMaps:
    """Average the reversed and the forward attention of prompts with the same number of tokens.

    Args:
        model: As for `flow_graph`.
        prompts: Prompts of one length in tokens.
        targets: A target for each prompt, or one target or metric for all; None is the model's own
            prediction for each.
        layers: The blocks whose maps are taken; those of others are 0. None is all.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Raises:
        InputError: prompts of different lengths, or not one target for each.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    tokens = [view.tokens.encode(prompt, prepend_bos) for prompt in each_prompt(prompts)]
    lengths = {len(one.ids) for one in tokens}
    if len(lengths) != 1:
        raise InputError(
            f"maps are averaged over prompts of one length, got {sorted(lengths) or 'none'} tokens"
        )
    n, chosen = lengths.pop(), view.check_layers(layers, gaps=True)
    sums = np.zeros((2, view.n_layers, view.n_heads, n, n), np.float32)
    pairs = list(zip(tokens, each_target(targets, len(tokens)), strict=True))
    for prompt, target in tqdm(pairs, desc="reversed attention", disable=not verbose):
        found = reversed_maps(view, prompt, Loss.of(view, prompt, target, -1), chosen)
        sums[0, list(chosen)] += found.maps()
        sums[1, list(chosen)] += found.forward_maps()
    sums /= len(tokens)
    return MeanMaps(sums[0], sums[1], len(tokens))


def each_prompt(prompts: Any) -> Sequence[Any]:
    """The prompts, one by one.

    Raises:
        InputError: a tensor that has no rows.
    """
    if isinstance(prompts, Tensor) and prompts.ndim != 2:
        raise InputError(f"prompts as a tensor are [prompt, pos], got {list(prompts.shape)}")
    return list(prompts)


def each_target(targets: Any, n: int) -> Sequence[Any]:
    """A target or metric for each of n prompts.

    Raises:
        InputError: not one for each.
    """
    if targets is None or callable(targets) or isinstance(targets, str | int):
        return [targets] * n
    found = list(targets)
    if len(found) != n:
        raise InputError(f"{len(found)} targets were given for {n} prompts; give one for each")
    return found
