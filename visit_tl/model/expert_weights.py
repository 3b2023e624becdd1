"""The weights of experts, however a model stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Glu = Callable[[Tensor | None, Tensor], Tensor]
"""From the products with W_gate (None where there is none) and with W_in to the coefficients."""

Activation = Callable[[Tensor], Tensor]

_SHARED: Final = ("shared_expert", "shared_experts", "shared_mlp")
_ACTIVATIONS: Final = ("act_fn", "activation_fn", "act", "activation", "hidden_act")
# The names of the matrices of one expert: gate, in, out. The gate is None in plain MLPs.
_TRIPLES: Final[tuple[tuple[str | None, str, str], ...]] = (
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("gate", "in", "out"),
    (None, "up_proj", "down_proj"),
    (None, "fc1", "fc2"),
)
_FUSED: Final = (("gate_up_proj", "down_proj"), ("input_linear", "output_linear"))


@dataclass(frozen=True)
class ExpertWeights:
    """The weights of one expert, in the dtype and on the device of the model.

    Attributes:
        W_gate: Columns of the gate; None in plain MLPs.
        W_in: Columns that neurons read.
        W_out: Rows that they write.
        b_gate: Bias of the gate, or None.
        b_in: Bias of W_in, or None.
        b_out: Output bias, or None.
    """

    W_gate: Float[Tensor, "d_model d_mlp"] | None
    W_in: Float[Tensor, "d_model d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_gate: Float[Tensor, " d_mlp"] | None = None
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_model"] | None = None

    def inner(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, " d_mlp"]:
        """The input times each column of W_in, plus the bias."""
        return _affine(x, self.W_in, self.b_in)

    def gate(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, " d_mlp"] | None:
        """The same with the gate."""
        return None if self.W_gate is None else _affine(x, self.W_gate, self.b_gate)


@dataclass(frozen=True)
class Layout:
    """One way to read the experts of a mixture.

    Attributes:
        words: What it is, such as `gate and in side by side`.
        expert: The weights of one expert, by its index.
    """

    words: str
    expert: Callable[[int], ExpertWeights]


@dataclass(frozen=True)
class SharedExpert:
    """An expert that every token passes through."""

    weights: ExpertWeights
    glu: Glu


def inner_module(module: Any) -> Any:
    """The module of the model that TransformerLens's modules wrap; any other module itself."""
    while (inner := getattr(module, "original_component", None)) is not None:
        module = inner
    return module


def router_rows(router: Any) -> Float[Tensor, "expert d_model"] | None:
    """The rows of a router, one for each expert; None where it has no such matrix."""
    if not isinstance(router, nn.Module):
        return None
    own = getattr(router, "weight", None)
    several = [own] if isinstance(own, Tensor) else list(router.parameters())
    rows = [p.detach() for p in several if p.ndim == 2]
    return rows[0] if len(rows) == 1 else None


def shared_experts(raw: Any) -> list[tuple[SharedExpert, Tensor | None]]:
    """The shared experts of a mixture, each with the row of its gate, if it has one."""
    found: list[tuple[SharedExpert, Tensor | None]] = []
    for name in _SHARED:
        module = inner_module(getattr(raw, name, None))
        if module is None:
            continue
        weights = _of_module(module)
        glus = list(_glus(module, raw))
        if weights is None or not glus:
            raise ValueError(f"{name} is no MLP of known matrices")
        gate = inner_module(getattr(raw, f"{name}_gate", None))
        row = None if gate is None else gate.weight.detach().float()[0]
        found.append((SharedExpert(weights, glus[0]), row))
    return found


def layouts(raw: Any, n_experts: int) -> Iterator[tuple[Layout, Glu]]:
    """Every known way to read the experts of a mixture, with every activation that may be theirs.

    Args:
        raw: The mixture, as transformers has it.
        n_experts: How many experts its router chooses from.
    """
    holder = inner_module(getattr(raw, "experts", raw))
    for layout, interleaved in _layouts(holder, n_experts):
        yield from ((layout, glu) for glu in _glus(holder, raw, interleaved=interleaved))


def _layouts(holder: Any, n_experts: int) -> Iterator[tuple[Layout, bool]]:
    """Layouts, each with whether gate and in alternate in it."""
    for fused, down in _FUSED:
        whole, out = _tensor(holder, fused), _tensor(holder, down)
        if whole is None or out is None or whole.ndim != 3 or len(whole) != n_experts:
            continue
        for turned in (True, False):
            for words, order in _HALVES.items():
                read = _fused(holder, (fused, down), turned, order)
                yield Layout(f"{words}{', turned' * turned}", read), words == "alternating"
    for gate, inner, down in _TRIPLES:
        names = (gate, inner, down)
        several = [_tensor(holder, n) for n in names if n is not None]
        if any(found is None or found.ndim != 3 for found in several):
            continue
        for turned in (True, False):
            yield (
                Layout(f"three tensors{', turned' * turned}", _apart(holder, names, turned)),
                False,
            )
    modules = list(holder) if isinstance(holder, nn.ModuleList) else []
    if modules and all(_of_module(inner_module(m)) is not None for m in modules):
        yield Layout("modules", lambda e: _required(_of_module(inner_module(modules[e])))), False


_HALVES: Final[dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]] = {
    "gate before in": lambda x: (x.chunk(2, -1)[0], x.chunk(2, -1)[1]),
    "alternating": lambda x: (x[..., ::2], x[..., 1::2]),
    "in before gate": lambda x: (x.chunk(2, -1)[1], x.chunk(2, -1)[0]),
}


def _fused(
    holder: Any,
    names: tuple[str, str],
    turned: bool,
    order: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Callable[[int], ExpertWeights]:
    # Tensors are read when they are asked for: the model may have been given others since.
    def read(e: int) -> ExpertWeights:
        whole, out = (_required(_tensor(holder, name))[e] for name in names)
        biases = [_tensor(holder, f"{name}_bias") for name in names]
        gate, inner = order(whole.T if turned else whole)
        b_gate, b_in = (None, None) if biases[0] is None else order(biases[0][e])
        b_out = None if biases[1] is None else biases[1][e]
        return ExpertWeights(gate, inner, out.T if turned else out, b_gate, b_in, b_out)

    return read


def _apart(
    holder: Any, names: tuple[str | None, str, str], turned: bool
) -> Callable[[int], ExpertWeights]:
    def read(e: int) -> ExpertWeights:
        whole = (None if name is None else _required(_tensor(holder, name))[e] for name in names)
        gate, inner, out = (None if x is None else x.T if turned else x for x in whole)
        return ExpertWeights(gate, _required(inner), _required(out))

    return read


def _of_module(module: Any) -> ExpertWeights | None:
    """The weights of an MLP of two or three linear layers; None if it is none."""
    for gate, inner, down in _TRIPLES:
        layers = [
            None if n is None else inner_module(getattr(module, n, None))
            for n in (gate, inner, down)
        ]
        if all(
            name is None or isinstance(layer, nn.Linear)
            for name, layer in zip((gate, inner, down), layers, strict=True)
        ):
            W = [None if layer is None else layer.weight.detach().T for layer in layers]
            b = [
                None if layer is None or layer.bias is None else layer.bias.detach()
                for layer in layers
            ]
            return ExpertWeights(W[0], _required(W[1]), _required(W[2]), b[0], b[1], b[2])
    return None


def _glus(holder: Any, raw: Any, *, interleaved: bool = False) -> Iterator[Glu]:
    """The activations that may be those of an expert, from its modules."""
    own = getattr(holder, "_apply_gate", None)
    if callable(own):
        yield _by_method(cast("Activation", own), interleaved)
    modules = list(holder) if isinstance(holder, nn.ModuleList) else [holder]
    for module in (inner_module(modules[0]) if modules else holder, raw):
        for name in _ACTIVATIONS:
            act = getattr(module, name, None)
            if callable(act):
                yield _by_activation(cast("Activation", act))
                return


def _by_activation(act: Activation) -> Glu:
    def glu(gate: Tensor | None, inner: Tensor) -> Tensor:
        return act(inner) if gate is None else act(gate) * inner

    return glu


def _by_method(own: Activation, interleaved: bool) -> Glu:
    def glu(gate: Tensor | None, inner: Tensor) -> Tensor:
        assert gate is not None
        both = torch.stack([gate, inner], -1).flatten() if interleaved else torch.cat([gate, inner])
        return own(both)

    return glu


def _tensor(holder: Any, name: str) -> Tensor | None:
    found = getattr(holder, name, None)
    if isinstance(found, nn.Module):
        found = getattr(inner_module(found), "weight", None)
    return found.detach() if isinstance(found, Tensor) else None


def _required(found: Any) -> Any:
    assert found is not None
    return found


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    made = x @ W.float()
    return made if b is None else made + b.float()
