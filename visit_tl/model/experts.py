"""Experts of a mixture, taken apart at one position: router weights, neurons, what each adds.

TransformerLens hooks the router and the sum of a mixture, not what is inside its experts. That is
computed here, from the input of the mixture and the experts' own weights. How a model stores these
weights and how it uses them is found by trying the known ways: a way is right if the chosen
experts, by their weights, and the shared experts sum to what the mixture gave in the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from visit_tl.errors import ModelError
from visit_tl.model.expert_weights import (
    ExpertWeights,
    Glu,
    Layout,
    inner_module,
    layouts,
    shared_experts,
)
from visit_tl.model.expert_weights import router_rows as rows_of_router

ROUTERS: Final = ("gate", "router")
"""What transformers calls the router of a mixture."""

WEIGHTS_HOOK: Final = "hook_expert_weights"
"""TransformerLens's hook of the weights of all experts, 0 for those that were not chosen."""


@dataclass(frozen=True)
class ExpertsTrace:
    """What the chosen and the shared experts of one block did at one position, float32.

    Attributes:
        indices: The experts, ascending; shared ones (-1, -2, ...) last.
        weights: The router's weight of each, or the gate of a shared one; 1 where it has none.
        router: Rows of the router, by the weights of the chosen experts; None where it has none.
        pre: By expert, its input times each column of its W_in, plus its bias.
        post: By expert, the coefficient of each row of its W_out, router weight included.
        W_in: By expert, its columns.
        W_out: By expert, its rows.
        b_out: By expert, its output bias times its weight; None where it has none.
    """

    indices: tuple[int, ...]
    weights: Float[Tensor, " expert"]
    router: Float[Tensor, " d_model"] | None
    pre: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    W_in: tuple[Tensor, ...]
    W_out: tuple[Tensor, ...]
    b_out: tuple[Tensor | None, ...]

    @property
    def outputs(self) -> Float[Tensor, "expert d_model"]:
        """What each expert adds: its neurons and its bias, by its weight."""
        sums = [a @ W for a, W in zip(self.post, self.W_out, strict=True)]
        return torch.stack(
            [x if b is None else x + b for x, b in zip(sums, self.b_out, strict=True)]
        )

    def of(self, expert: int) -> int | None:
        """The place of an expert in the lists; None if it was not chosen."""
        return self.indices.index(expert) if expert in self.indices else None


@dataclass(frozen=True)
class _Way:
    """One way in which a mixture may work: how weights are stored, chosen and used."""

    routing: str
    layout: Layout
    glu: Glu
    before: bool
    gated: bool


class Mixture:
    """The mixture of experts of one block.

    Args:
        where: Its name, for errors.
        module: The module that TransformerLens has for it.
        top_k: How many experts the configuration says are chosen for a token.

    Attributes:
        n_experts: How many experts the router chooses from.
    """

    def __init__(self, where: str, module: Any, top_k: int | None) -> None:
        self._where = where
        self._raw = inner_module(module)
        found = next((name for name in ROUTERS if hasattr(self._raw, name)), None)
        self.hook = None if found is None else f"{where}.{found}.{WEIGHTS_HOOK}"
        self._router = None if found is None else inner_module(getattr(self._raw, found))
        own = (getattr(part, "top_k", None) for part in (self._router, self._raw))
        self._top_k = next((k for k in own if isinstance(k, int)), top_k)
        self._way: _Way | None = None
        rows = rows_of_router(self._router)
        self.n_experts = 0 if rows is None else len(rows)

    @property
    def n_shared(self) -> int:
        """How many shared experts there are."""
        return len(shared_experts(self._raw))

    @property
    def words(self) -> str:
        """How many experts there are, and how many of them are chosen."""
        chosen = "" if self._top_k is None else f", {self._top_k} chosen for a token"
        shared = f", {self.n_shared} shared" if self.n_shared else ""
        return f"{self.n_experts} experts{chosen}{shared}"

    def d_mlp(self, expert: int) -> int:
        """How many neurons an expert has."""
        if expert < 0:
            return shared_experts(self._raw)[-1 - expert][0].weights.W_in.shape[1]
        assert self._way is not None
        return self._way.layout.expert(expert).W_in.shape[1]

    def fit(
        self,
        x: Float[Tensor, "row d_model"],
        shown: Float[Tensor, "row expert"] | None,
        out: Float[Tensor, "row d_model"],
        allowed: float,
    ) -> None:
        """Find the way in which it works.

        Args:
            x: Its input, at some positions of a run.
            shown: The weights at the router's hook, if it fired.
            out: Its output there.
            allowed: The relative error up to which a way is right.

        Raises:
            ModelError: no known way gives the output; the message says what was tried.
        """
        if self._router is None or not self.n_experts:
            raise ModelError(f"{self._where} has no router among {', '.join(ROUTERS)}")
        tried, best = 0, float("inf")
        for way in self._ways(x, shown):
            tried += 1
            self._way = way
            try:
                sums = torch.stack(
                    [
                        self.trace(row, None if shown is None else shown[i]).outputs.sum(0)
                        for i, row in enumerate(x)
                    ]
                )
            except (RuntimeError, ValueError, IndexError, TypeError):
                continue  # shapes that do not fit are another way to be wrong
            off = float((sums - out).norm() / out.norm().clamp_min(1e-12))
            best = min(best, off)
            if off <= allowed:
                return
        self._way = None
        raise ModelError(
            f"its experts could not be read: of {tried} ways to store and weight experts, the "
            f"nearest is off by {best:.2g}"
        )

    def trace(
        self, x: Float[Tensor, " d_model"], shown: Float[Tensor, " expert"] | None
    ) -> ExpertsTrace:
        """Take the mixture apart at one position.

        Args:
            x: Its input there.
            shown: The weights at the router's hook, if it fired.
        """
        way = self._way
        assert way is not None
        weights = self._weights(way.routing, x[None], shown)[0]
        chosen = weights.nonzero().flatten().tolist()
        found = [(e, weights[e], way.layout.expert(e), way.glu) for e in chosen]
        for i, (expert, gate) in enumerate(shared_experts(self._raw)):
            amount = torch.ones((), device=x.device)
            if gate is not None and way.gated:
                amount = torch.sigmoid(x @ gate)
            found.append((-1 - i, amount, expert.weights, expert.glu))
        return self._apart(x, found, way.before, weights)

    def _apart(
        self,
        x: Tensor,
        found: Sequence[tuple[int, Tensor, ExpertWeights, Glu]],
        before: bool,
        weights: Tensor,
    ) -> ExpertsTrace:
        pres, posts, biases = [], [], []
        for index, amount, w, glu in found:
            scaled = before and index >= 0
            read = x * amount if scaled else x
            after = torch.ones_like(amount) if scaled else amount
            pre = w.inner(read)
            posts.append(glu(w.gate(read), pre) * after)
            pres.append(pre)
            biases.append(None if w.b_out is None else w.b_out.float() * after)
        rows = rows_of_router(self._router)
        return ExpertsTrace(
            indices=tuple(index for index, *_ in found),
            weights=torch.stack([amount for _, amount, *_ in found]),
            router=None if rows is None else weights @ rows.float(),
            pre=tuple(pres),
            post=tuple(posts),
            W_in=tuple(w.W_in.float() for _, _, w, _ in found),
            W_out=tuple(w.W_out.float() for _, _, w, _ in found),
            b_out=tuple(biases),
        )

    # --- the ways ------------------------------------------------------------------------------

    def _ways(self, x: Tensor, shown: Tensor | None) -> Iterator[_Way]:
        routings = ["router", *_LOGITS]
        if shown is not None and shown.shape[-1] == self.n_experts:
            routings = ["hook", *routings]
        known: list[Tensor] = []
        for routing in routings:
            try:
                weights = self._weights(routing, x, shown)
            except (RuntimeError, ValueError, IndexError, TypeError):
                continue
            if any(torch.equal(weights, other) for other in known):
                continue
            known.append(weights)
            gates = (
                (True, False)
                if any(g is not None for _, g in shared_experts(self._raw))
                else (True,)
            )
            for (layout, glu), before, gated in product(
                layouts(self._raw, self.n_experts), (False, True), gates
            ):
                yield _Way(routing, layout, glu, before, gated)

    def _weights(
        self, routing: str, x: Float[Tensor, "row d_model"], shown: Tensor | None
    ) -> Float[Tensor, "row expert"]:
        """The weights of all experts at some positions; 0 for those that were not chosen."""
        if routing == "hook" and shown is not None:
            return shown.reshape(len(x), self.n_experts).float()
        parts = self._routed(x)
        if routing not in _LOGITS:
            return _read_routing(parts, self.n_experts)
        logits = next(p for p in parts if p.is_floating_point() and p.shape[-1] == self.n_experts)
        k = self._top_k or self.n_experts
        return _LOGITS[routing](logits.float(), k)

    def _routed(self, x: Tensor) -> list[Tensor]:
        """The tensors that the router gives. Its `forward` is called, so that no hook fires."""
        assert self._router is not None
        dtype = next(self._router.parameters()).dtype
        with torch.no_grad():
            found = self._router.forward(x.to(dtype))
        several = found if isinstance(found, tuple | list) else (found,)
        return [part for part in several if isinstance(part, Tensor)]


def _read_routing(parts: Sequence[Tensor], n_experts: int) -> Tensor:
    """Weights of all experts from indices and weights of the chosen ones, or from sparse weights.

    Raises:
        ValueError: the router gives neither.
    """
    whole = [p for p in parts if p.is_floating_point()]
    for index in (p for p in parts if not p.is_floating_point() and p.ndim == 2):
        for weight in (p for p in whole if p.shape == index.shape):
            made = torch.zeros(len(index), n_experts, device=weight.device)
            return made.scatter_(-1, index.long(), weight.float())
    for weight in whole:
        if weight.shape[-1] == n_experts and bool((weight >= 0).all()):
            return weight.float()
    raise ValueError("no weights")


def _chosen(weights: Tensor, k: int, *, summed: bool) -> Tensor:
    top = weights.topk(min(k, weights.shape[-1]), dim=-1)
    values = top.values / top.values.sum(-1, keepdim=True) if summed else top.values
    return torch.zeros_like(weights).scatter_(-1, top.indices, values)


def _softmax_of_chosen(logits: Tensor, k: int) -> Tensor:
    top = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.zeros_like(logits).scatter_(-1, top.indices, top.values.softmax(-1))


_LOGITS: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = {
    "softmax": lambda x, k: _chosen(x.softmax(-1), k, summed=False),
    "softmax, summing to 1": lambda x, k: _chosen(x.softmax(-1), k, summed=True),
    "softmax of the chosen": _softmax_of_chosen,
    "sigmoid": lambda x, k: _chosen(x.sigmoid(), k, summed=False),
    "sigmoid, summing to 1": lambda x, k: _chosen(x.sigmoid(), k, summed=True),
}
"""How the weights of experts may come from logits, where the router gives only these."""


def with_rows(
    trace: ExpertsTrace, W_out: Sequence[Tensor], b_out: Sequence[Tensor | None]
) -> ExpertsTrace:
    """The same with other rows and biases, such as those that a post-norm scaled."""
    return replace(trace, W_out=tuple(W_out), b_out=tuple(b_out))


def is_mixture(module: Any) -> bool:
    """Whether the MLP of a block is a mixture of experts, and not one of its dense blocks."""
    if module is None or getattr(module, "bound_dense", False):
        return False
    raw = inner_module(module)
    names = {name for name, _ in raw.named_children()} if isinstance(raw, nn.Module) else set()
    if "experts" in names or hasattr(module, "experts"):
        return True
    return bool(names & set(ROUTERS)) and any(p.ndim == 3 for p in raw.parameters())
