"""MLP neurons: those that are active in most prompts, and what their rows are like (VISIT, 5.3)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.lens.readout import read
from visit_tl.sweeps.options import chosen_integers, chosen_layers, count
from visit_tl.sweeps.prompt_run import PromptRun, SweptModel
from visit_tl.sweeps.registry import study

_READ_AT_ONCE: Final = 2048


@study(
    columns={"layer": "int64", "neuron": "int64", "activation": "float64"},
    by=["layer", "neuron"],
    source="VISIT, section 5.3",
    paper=True,
)
def regularisation_neurons(
    run: PromptRun, top: int = 100, order: str = "signed", layers: str | int | None = None
) -> Any:
    """The neurons of each layer with the largest activations, largest first.

    The number of rows of a neuron, over that of prompts, is the share of prompts in which it is
    among them; VISIT finds neurons of the last quarter above 85 %. A neuron with an activation of
    exactly 0 has no row.

    Args:
        run: The run.
        top: How many neurons of a layer.
        order: `signed`, `absolute`, or `norm`: absolute, times the norm of the row of W_out. VISIT
            does not say which; its code orders the neurons of its graphs by the last.
        layers: Blocks, such as `15` or `18,19`, or `all`; None is all.
    """
    chosen = chosen_layers(run.view, layers, tuple(range(run.view.n_layers)))
    at, neurons, activations = _top_neurons(run, chosen, top, order)
    return {"layer": np.array(chosen)[at], "neuron": neurons, "activation": activations}


@study(
    columns={
        "layer": "int64",
        "neuron": "int64",
        "activation": "float64",
        "norm": "float64",
        "entropy": "float64",
        "layer_norm": "float64",
        "layer_entropy": "float64",
    },
    by=["layer", "neuron"],
    source="VISIT, Fig. 8",
    paper=True,
)
def neuron_entropy_norm(
    run: PromptRun, top: int = 100, order: str = "signed", layers: str | int | None = None
) -> Any:
    """Norm and entropy of the rows of W_out of the most active neurons, and the layer's means.

    `norm` and `entropy` (of the lens, in nats) are of weights: the same in every prompt, and read
    once for all prompts. `layer_norm` and `layer_entropy` are means over all rows of the layer.
    Rows of a model with a norm after the MLP have that norm's gain, but not its scale.

    Args:
        run: The run.
        top: How many neurons of a layer.
        order: As for `regularisation_neurons`.
        layers: Blocks, such as `19`, or `all`; None is one at 19/24 of the depth, as in the paper.
            Each costs a readout of all its rows.
    """
    chosen = chosen_layers(run.view, layers, (_at_19_of_24(run.view.n_layers),))
    at, neurons, activations = _top_neurons(run, chosen, top, order)
    sheets = [_norms_and_entropies(run.swept, layer) for layer in chosen]
    norms, entropies = (np.stack(part) for part in zip(*sheets, strict=True))
    return {
        "layer": np.array(chosen)[at],
        "neuron": neurons,
        "activation": activations,
        "norm": norms[at, neurons],
        "entropy": entropies[at, neurons],
        "layer_norm": norms.mean(-1)[at],
        "layer_entropy": entropies.mean(-1)[at],
    }


@study(
    columns={
        "layer": "int64",
        "neuron": "int64",
        "rank": "int64",
        "dimension": "int64",
        "weight": "float64",
        "mean_weight": "float64",
        "mean_absolute": "float64",
    },
    by=["layer", "neuron", "dimension"],
    source="VISIT, Fig. 9",
    paper=True,
)
def outlier_entries(
    run: PromptRun,
    neurons: str | int | None = None,
    top: int = 3,
    order: str = "signed",
    k: int = 10,
    layers: str | int | None = None,
) -> Any:
    """The largest entries of the rows of W_out of some neurons, beside those of a usual neuron.

    `mean_weight` is the entry of the mean row of the layer, `mean_absolute` the mean absolute entry
    in this dimension: that of a random neuron, on average. All are weights, as in
    `neuron_entropy_norm`; with `neurons` given, every prompt has the same rows, and one is enough.

    Args:
        run: The run.
        neurons: Neurons, such as `33` or `33,120`; None is the most active ones of the prompt.
        top: How many of these.
        order: As for `regularisation_neurons`.
        k: How many entries of a neuron, largest absolute value first.
        layers: As for `neuron_entropy_norm`.
    """
    chosen = chosen_layers(run.view, layers, (_at_19_of_24(run.view.n_layers),))
    if neurons is None:
        at, which, _ = _top_neurons(run, chosen, top, order)
    else:
        given = np.array(chosen_integers("neurons", neurons))
        size = run.mlp_post.shape[-1]
        if outside := [n for n in given.tolist() if not 0 <= n < size]:
            raise InputError(f"neuron {outside[0]} is outside 0..{size - 1} of {run.view.name}")
        at, which = np.repeat(np.arange(len(chosen)), len(given)), np.tile(given, len(chosen))
    k = count("k", k, run.view.d_model)
    dimensions, weights, means, absolutes = [], [], [], []
    for i, layer in enumerate(chosen):
        rows = _rows(run.swept, layer)
        mean, absolute = run.swept.shared(
            f"mean rows {layer}", lambda rows=rows: (rows.mean(0), rows.abs().mean(0))
        )
        own = rows[torch.from_numpy(which[at == i]).to(rows.device)]
        largest = own.abs().argsort(dim=-1, descending=True, stable=True)[:, :k]
        dimensions.append(largest.flatten())
        weights.append(own.gather(1, largest).flatten())
        means.append(mean[largest].flatten())
        absolutes.append(absolute[largest].flatten())
    return {
        "layer": np.repeat(np.array(chosen)[at], k),
        "neuron": np.repeat(which, k),
        "rank": np.tile(np.arange(k), len(which)),
        "dimension": torch.cat(dimensions),
        "weight": torch.cat(weights),
        "mean_weight": torch.cat(means),
        "mean_absolute": torch.cat(absolutes),
    }


def _top_neurons(
    run: PromptRun, layers: tuple[int, ...], top: int, order: str
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The most active neurons: the place of each one's layer, its index, its activation."""
    activations = run.mlp_post[list(layers)]
    if order == "signed":
        score = activations
    elif order == "absolute":
        score = activations.abs()
    elif order == "norm":
        score = activations.abs() * torch.stack([_norms(run.swept, layer) for layer in layers])
    else:
        raise InputError(f"order is 'signed', 'absolute' or 'norm', got {order!r}")
    top = count("top", top, activations.shape[-1])
    neurons = score.argsort(dim=-1, descending=True, stable=True)[:, :top]
    found = activations.gather(1, neurons)
    at, place = (found != 0).nonzero(as_tuple=True)
    values = (at, neurons[at, place], found[at, place].double())
    at_, neurons_, activations_ = (value.cpu().numpy() for value in values)
    return at_, neurons_, activations_


def _rows(swept: SweptModel, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The rows of W_out, with the gain of a norm after the MLP."""

    def make() -> Tensor:
        rows, after = swept.weights[layer].W_out, swept.view.norm(layer, "ln2_post")
        if rows is None:
            raise InputError(f"{swept.view.name} has no MLP, so this study cannot be of it")
        if after.kind == "LN":
            rows = rows - rows.mean(-1, keepdim=True)
        return rows if after.kind == "none" or after.weight is None else rows * after.weight

    return swept.shared(f"rows of W_out {layer}", make)


def _norms(swept: SweptModel, layer: int) -> Float[Tensor, " d_mlp"]:
    return swept.shared(
        f"norms of W_out {layer}", lambda: torch.linalg.vector_norm(_rows(swept, layer), dim=-1)
    )


def _norms_and_entropies(
    swept: SweptModel, layer: int
) -> tuple[Float[np.ndarray, " d_mlp"], Float[np.ndarray, " d_mlp"]]:
    """Norm and entropy of each row, read once for all prompts."""

    def make() -> tuple[np.ndarray, np.ndarray]:
        parts = _rows(swept, layer).split(_READ_AT_ONCE)
        entropies = torch.cat([read(swept.view, part, k=1).entropy for part in parts])
        found = (_norms(swept, layer), entropies)
        norms, entropies_ = (part.double().cpu().numpy() for part in found)
        return norms, entropies_

    return swept.shared(f"entropies of W_out {layer}", make)


def _at_19_of_24(n_layers: int) -> int:
    return n_layers * 19 // 24
