"""The measurement of SAEs: features and reconstructions beside their two bare products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from visit_tl.bench.parts import Measurements, random_vectors
from visit_tl.bench.report import Figure, Timing
from visit_tl.features.encoders import Activation, JumpReLU, LinearEncoder, ReLU, TopK
from visit_tl.features.feature_module import FeatureModule

_WIDER: Final = 8
"""Features for each number of the hook."""
_MOST: Final = 1 << 15
"""Features at most; their two matrices take a GB at a width of 4096."""
_VECTORS: Final = 1024
"""Vectors at most; at 32768 features, theirs take 128 MB."""
_ACTIVE: Final = 32


def sae_features(measured: Measurements) -> Iterator[Timing]:
    """Time random SAEs of the residual stream: encode and decode, with all terms of the sum.

    They are held against the bare products of the same inputs and features with the encoder's and
    the decoder's matrix.
    """
    view, n = measured.view, min(measured.vectors, _VECTORS)
    count = max(_ACTIVE, min(_WIDER * view.d_model, _MOST))
    x, of_kind = random_vectors(view, n), _modules(view.d_model, count, view.W_U.device)
    plain = of_kind["standard"]
    features = plain.encode(x)
    W_enc = plain.encoder.W_enc  # type: ignore[attr-defined]

    def products() -> object:
        return x @ W_enc, features @ plain.W_dec

    products()
    applied = {kind: lambda own=own: own.apply(x) for kind, own in of_kind.items()}
    found = measured.time_in_turns({"products": products, **applied})
    product = found["products"]
    what = f"products of {n} vectors with the matrices of {count} features"
    yield Timing("features", what, product, product)
    for kind in applied:
        yield Timing("features", f"{kind} SAE: encode and decode", found[kind], product)
        what = f"{kind} SAE, encode and decode / bare products"
        measured.figures.append(Figure(what, found[kind] / product))


def _modules(d_model: int, count: int, device: torch.device) -> dict[str, FeatureModule]:
    """SAEs of three architectures with the same random weights."""
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.randn(count, d_model, generator=generator).to(device) * d_model**-0.5
    W_enc, b_enc = W_dec.T.contiguous(), torch.zeros(count, device=device)
    activations: dict[str, Activation] = {
        "standard": ReLU(),
        "jumprelu": JumpReLU(torch.full((count,), 0.5, device=device)),
        "topk": TopK(_ACTIVE),
    }
    return {
        kind: FeatureModule(
            architecture=kind,
            hook="blocks.0.hook_resid_post",
            hook_out="blocks.0.hook_resid_post",
            layer=0,
            W_dec=W_dec,
            b_dec=torch.zeros(d_model, device=device),
            encoder=LinearEncoder(W_enc, b_enc, activation),
            d_in=d_model,
        )
        for kind, activation in activations.items()
    }
