"""Norms as filters: the probabilities of tokens before and after ln1 or ln2 (VISIT, section 5).

Norms that were folded into weights change no reading; the studies refuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.lens import unembed
from visit_tl.lens.extremes import Extremes
from visit_tl.model.norm import Norm
from visit_tl.model.view import ModelView
from visit_tl.sweeps.options import chosen_layers, count, quarter_points
from visit_tl.sweeps.prompt_run import PromptRun, SweptModel
from visit_tl.sweeps.registry import study

WORDS: Final = (
    " the",
    " a",
    " not",
    " of",
    " in",
    " and",
    " to",
    " for",
    " Microsoft",
    " subsidiaries",
)
"""The words that VISIT follows (Fig. 7), and more function words."""

_TOP: Final = {
    "layer": "int64",
    "norm": "string",
    "side": "string",
    "rank": "int64",
    "token_id": "int64",
    "token": "string",
    "prob": "float64",
}
_MOVED: Final = {
    "layer": "int64",
    "norm": "string",
    "kind": "string",
    "rank": "int64",
    "token_id": "int64",
    "token": "string",
    "before": "float64",
    "after": "float64",
    "difference": "float64",
}
_CONTROLLED: Final = _MOVED | {
    "control_before": "float64",
    "control_after": "float64",
    "control_difference": "float64",
}
_BY_TOKEN: Final = ("layer", "norm", "kind", "token_id", "token")


def norms_of(swept: SweptModel, name: str, layers: Sequence[int]) -> list[Norm]:
    """The norms `ln1` or `ln2` of some blocks.

    Raises:
        InputError: a block has none, or one without weights, as after folding.
    """
    view = swept.view
    every = swept.shared(
        f"norms {name}", lambda: [view.norm(layer, name) for layer in range(view.n_layers)]
    )
    for layer in layers:
        if every[layer].kind == "none":
            raise InputError(f"blocks.{layer} of {view.name} has no {name}")
        if _plain(every[layer]):
            raise InputError(
                f"{name} of blocks.{layer} in {view.name} has a gain of 1 and no bias, as when "
                f"norms are folded into weights (compatibility mode), so the lens reads the same "
                f"before and after it; open the model without folding"
            )
    return [every[layer] for layer in layers]


def _plain(norm: Norm) -> bool:
    gain = norm.weight is None or bool((norm.weight == 1).all())
    return gain and (norm.bias is None or not bool(norm.bias.any()))


def normed(
    norms: Sequence[Norm], states: Float[Tensor, "layer *rows d_model"]
) -> Float[Tensor, "layer *rows d_model"]:
    """Each block's states after its norm."""
    return torch.stack([norm(state) for norm, state in zip(norms, states, strict=True)])


def probabilities(
    view: ModelView, vectors: Float[Tensor, "*rows d_model"], apply_norm: bool
) -> Float[Tensor, "*rows d_vocab"]:
    """The lens of vectors for the whole vocabulary, with the final norm or without."""
    x = view.final_norm(vectors) if apply_norm else vectors.float()
    logits = unembed.logits(view, x.reshape(-1, view.d_model))
    return logits.softmax(-1).view(*vectors.shape[:-1], -1)


def largest_changes(
    change: Float[Tensor, "layer d_vocab"], k: int
) -> dict[str, Int[Tensor, "layer k"]]:
    """The tokens with the largest loss and gain; ties go to the lower id."""
    found = Extremes(len(change), k)
    found.see(change.contiguous(), 0)
    _, gainers, _, losers = found.best()
    return {"loser": losers, "gainer": gainers}


def moved_rows(
    view: ModelView,
    layers: Sequence[int],
    norm: str,
    kinds: Mapping[str, Int[Tensor, "layer _"]],
    probs: Float[Tensor, "side layer d_vocab"],
) -> dict[str, Any]:
    """Rows of tokens, kind after kind in each layer; four sides are those and the control's."""
    ids = torch.cat(list(kinds.values()), 1)
    found = probs.gather(-1, ids.expand(len(probs), *ids.shape)).double().flatten(1).cpu().numpy()
    sizes = [some.shape[1] for some in kinds.values()]
    flat = ids.flatten().tolist()
    columns: dict[str, Any] = {
        "layer": np.repeat(layers, ids.shape[1]),
        "norm": [norm] * len(flat),
        "kind": np.repeat(list(kinds), sizes).tolist() * len(layers),
        "rank": np.tile(np.concatenate([np.arange(n) for n in sizes]), len(layers)),
        "token_id": flat,
        "token": [view.tokens.text(i) for i in flat],
    }
    for i, name in enumerate(("", "control_")[: len(found) // 2]):
        before, after = found[2 * i], found[2 * i + 1]
        columns |= {
            f"{name}before": before,
            f"{name}after": after,
            f"{name}difference": after - before,
        }
    return columns


@study(columns=_CONTROLLED, by=_BY_TOKEN, source="VISIT, Fig. 7, Fig. 21 and Fig. 22", paper=True)
def ln_filter(
    run: PromptRun,
    layers: str | int | None = None,
    norm: str = "ln1",
    words: str | None = None,
    movers: int = 10,
    control: str = "gaussian",
    seed: int = 0,
) -> Any:
    """The probability of tokens before and after a norm, and the same in a random vector.

    Rows are of each word, of the target, and of the tokens whose probability changes most (`mover`,
    by absolute change, largest first). VISIT does not say how its random vectors were drawn, nor
    whether probabilities were averaged over prompts or read in the mean state: a summary of this
    study averages probabilities; `mean_states.mean_state_movers` reads the mean.

    Args:
        run: The run.
        layers: Blocks, such as `15` or `5,11`, or `all`; None is the quarter points.
        norm: `ln1`, `ln2`, or `all`: both, where the blocks have both.
        words: Tokens, separated by `|`, such as ` the| a`. None is `WORDS`, as far as they are
            tokens of the model.
        movers: How many of the tokens that change most.
        control: A random vector for each prompt and layer, as long as the state: `gaussian`, with
            normal entries; or `shuffled`, the entries of the state in random order.
        seed: Of the random vectors.
    """
    return _each_norm(
        run,
        norm,
        lambda one: _filter(run, layers, one, words, movers, control, seed, apply_norm=True),
    )


@study(columns=_CONTROLLED, by=_BY_TOKEN, source="VISIT, Fig. 23 and Table 6", paper=True)
def ln_without_lnf(
    run: PromptRun,
    layers: str | int | None = None,
    norm: str = "ln1",
    words: str | None = None,
    movers: int = 10,
    control: str = "gaussian",
    seed: int = 0,
) -> Any:
    """`ln_filter` and `ln_losers` by a lens without the final norm, `softmax(x W_U + b_U)`.

    Rows are of each word, of the target, of movers, losers and gainers. Options as `ln_filter`;
    `movers` is how many of each of the last three.
    """
    return _each_norm(
        run,
        norm,
        lambda one: _filter(run, layers, one, words, movers, control, seed, apply_norm=False),
    )


@study(columns=_MOVED, by=_BY_TOKEN, source="VISIT, Table 3 and Table 5", paper=True)
def ln_losers(
    run: PromptRun,
    layers: str | int | None = None,
    norm: str = "ln1",
    k: int = 10,
    apply_norm: bool = True,
) -> Any:
    """The tokens that lose and gain the most probability at a norm, largest change first.

    Args:
        run: The run.
        layers: Blocks, such as `15` or `5,11`, or `all`; None is the quarter points, in a model of
            24 layers 5, 11, 17 and 23 as in the paper.
        norm: `ln1`, `ln2`, or `all`: both, where the blocks have both.
        k: How many of either.
        apply_norm: False reads states without the final norm.
    """

    def rows(one: str) -> dict[str, Any]:
        chosen, states, norms = _states(run, layers, one)
        probs = probabilities(run.view, torch.stack([states, normed(norms, states)]), apply_norm)
        kinds = largest_changes(probs[1] - probs[0], count("k", k, run.view.d_vocab))
        return moved_rows(run.view, chosen, one, kinds, probs)

    return _each_norm(run, norm, rows)


@study(
    columns=_TOP,
    by=["layer", "norm", "side", "token_id", "token"],
    source="VISIT, Table 1, Table 2 and Table 4",
    paper=True,
)
def ln_top_tokens(
    run: PromptRun, layers: str | int | None = None, norm: str = "ln1", k: int = 10
) -> Any:
    """The top tokens of a state before and after a norm.

    VISIT reads the mean state of 100 prompts. A study sees one: a summary of this one tells in how
    many prompts a token is among the top ones. `mean_states.mean_state_tokens` reads the mean.

    Args:
        run: The run.
        layers: Blocks, such as `15` or `13,15`, or `all`; None is the quarter points.
        norm: `ln1`, `ln2`, or `all`: both, where the blocks have both.
        k: How many top tokens.
    """
    k = count("k", k, run.view.d_vocab)
    parts = []
    for one in _names(run, norm):
        chosen, states, norms = _states(run, layers, one)
        before, after = yield run.read(states, k), run.read(normed(norms, states), k)
        ids = torch.stack([before.top_ids, after.top_ids], 1)
        probs = torch.stack([before.top_probs, after.top_probs], 1)
        parts.append(top_rows(run.view, chosen, one, ids, probs))
    return _joined(parts)


def top_rows(
    view: ModelView,
    layers: Sequence[int],
    norm: str,
    ids: Int[Tensor, "layer side k"],
    probs: Float[Tensor, "layer side k"],
) -> dict[str, Any]:
    """Rows of the top tokens before and after a norm."""
    n, _, k = ids.shape
    flat = ids.flatten().tolist()
    return {
        "layer": np.repeat(layers, 2 * k),
        "norm": [norm] * len(flat),
        "side": (["before"] * k + ["after"] * k) * n,
        "rank": np.tile(np.arange(k), 2 * n),
        "token_id": flat,
        "token": [view.tokens.text(i) for i in flat],
        "prob": probs.flatten(),
    }


def _names(run: PromptRun, norm: str) -> list[str]:
    """The norms that an option names."""
    if norm != "all":
        return [norm]
    found = [name for name in ("ln1", "ln2") if run.view.norm(0, name).kind != "none"]
    return found or ["ln1"]  # whose refusal says what is missing


def _each_norm(
    run: PromptRun, norm: str, rows: Callable[[str], dict[str, Any]]
) -> dict[str, np.ndarray]:
    """The rows of each norm that an option names, one norm after the other."""
    return _joined([rows(name) for name in _names(run, norm)])


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def _filter(
    run: PromptRun,
    layers: str | int | None,
    norm: str,
    words: str | None,
    movers: int,
    control: str,
    seed: int,
    *,
    apply_norm: bool,
) -> dict[str, Any]:
    """The rows of `ln_filter`, and without the final norm those of `ln_losers` too."""
    chosen, states, norms = _states(run, layers, norm)
    random = _random(run.norm_input(norm), control, seed, run.index)[list(chosen)]
    stacks = torch.stack([states, normed(norms, states), random, normed(norms, random)])
    probs = probabilities(run.view, stacks, apply_norm)
    change, k = probs[1] - probs[0], count("movers", movers, run.view.d_vocab)
    followed = torch.tensor(
        [*_words(run.swept, words), run.target], dtype=torch.long, device=change.device
    ).expand(len(chosen), -1)
    kinds = {
        "word": followed[:, :-1],
        "target": followed[:, -1:],
        "mover": largest_changes(change.abs(), k)["gainer"],
    }
    if not apply_norm:
        kinds |= largest_changes(change, k)
    return moved_rows(run.view, chosen, norm, kinds, probs)


def _states(
    run: PromptRun, layers: str | int | None, norm: str
) -> tuple[tuple[int, ...], Float[Tensor, "layer d_model"], list[Norm]]:
    """The chosen blocks, their states before the norm, and their norms."""
    chosen = chosen_layers(run.view, layers, quarter_points(run.view.n_layers))
    states = run.norm_input(norm)[list(chosen)]
    return chosen, states, norms_of(run.swept, norm, chosen)


def _random(
    states: Float[Tensor, "layer d_model"], kind: str, seed: int, prompt: int
) -> Float[Tensor, "layer d_model"]:
    """A random vector as long as each state; the same whichever prompts run together."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + prompt)
    drawn = torch.randn(states.shape, generator=generator).to(states.device)
    if kind == "shuffled":
        return states.gather(1, drawn.argsort(1))
    if kind == "gaussian":
        lengths = rearrange(torch.linalg.vector_norm(states, dim=-1), "layer -> layer 1")
        return torch.nn.functional.normalize(drawn, dim=-1) * lengths
    raise InputError(f"control is 'gaussian' or 'shuffled', got {kind!r}")


def _words(swept: SweptModel, words: str | None) -> list[int]:
    """The ids of the words that are followed.

    Raises:
        InputError: a word that was asked for is not one token.
    """

    def ids() -> list[int]:
        single = swept.view.tokens.single
        if words is not None:
            return [single(word) for word in words.split("|")]
        found: list[int] = []
        for word in WORDS:
            try:
                found.append(single(word))
            except InputError:  # several tokens here, or no tokenizer at all
                continue
        # A tokenizer may drop what it does not know.
        return [i for i in found if swept.view.tokens.text(i) in WORDS]

    return swept.shared(f"words {words!r}", ids)
