"""A feature module from what SAELens keeps: a configuration and tensors by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.features.encoders import (
    Encoder,
    GatedEncoder,
    JumpReLU,
    LinearEncoder,
    MatchingPursuit,
    ReLU,
    TopK,
)
from visit_tl.features.feature_module import FeatureModule
from visit_tl.features.saelens_config import TRANSCODERS, SAELensConfig, block_of
from visit_tl.features.weight_files import Tensors


def module_of(
    config: SAELensConfig, tensors: Tensors, *, name: str, path: Path | None
) -> FeatureModule:
    """The module that a configuration and its tensors describe.

    Raises:
        InputError: a tensor is missing, has another shape, or has no place in the architecture.
    """
    transcoder = config.architecture in TRANSCODERS
    b_dec = tensors.take("b_dec", config.d_out)
    W_dec = tensors.take("W_dec", config.d_sae, config.d_out)
    b_in = b_dec if config.subtract_b_dec else None
    encoder = _encoder(config, tensors, W_dec)
    if config.architecture == "matching_pursuit":
        tensors.ignore("W_enc")
        if not config.subtract_b_dec:  # its decoder adds what its encoder subtracts
            b_dec = torch.zeros_like(b_dec)
    W_skip = None
    if "skip" in config.architecture:
        W_skip = tensors.take("W_skip", config.d_out, config.d_in)
    module = FeatureModule(
        architecture=config.architecture,
        hook=config.hook,
        hook_out=config.hook_out,
        layer=block_of(config.hook, tensors.source),
        W_dec=_decoder(config, tensors, W_dec),
        b_dec=b_dec,
        encoder=encoder,
        d_in=config.d_in,
        b_in=b_in,
        W_skip=W_skip,
        norm=config.norm,  # type: ignore[arg-type]
        norm_out=not transcoder,
        flatten_heads=config.flatten_heads,
        head=config.head,
        model_name=_said(config, "model_name") or "",
        neuronpedia_id=_said(config, "neuronpedia_id"),
        name=name,
        path=path,
        metadata=config.metadata,
    )
    tensors.require_all_used()
    return module


def _encoder(config: SAELensConfig, tensors: Tensors, W_dec: Tensor) -> Encoder:
    if config.architecture == "matching_pursuit":
        return MatchingPursuit(W_dec, **config.pursuit)
    n = config.d_sae
    W_enc = tensors.take("W_enc", config.d_in, n)
    if config.architecture == "gated":
        b_gate, r_mag, b_mag = (tensors.take(name, n) for name in ("b_gate", "r_mag", "b_mag"))
        tensors.ignore("b_enc")
        return GatedEncoder(W_enc, b_gate, r_mag, b_mag)
    b_enc = tensors.take("b_enc", n)
    if "jumprelu" in config.architecture:
        return LinearEncoder(W_enc, b_enc, JumpReLU(_threshold(tensors, n)))
    if config.architecture == "topk":
        encoder = LinearEncoder(W_enc, b_enc, TopK(config.k))
    elif config.architecture == "abstopk":
        encoder = LinearEncoder(W_enc, b_enc, TopK(config.k, "magnitude", relu=False))
    else:
        return LinearEncoder(W_enc, b_enc, ReLU())
    if not config.rescale:
        return encoder
    norms = W_dec.norm(dim=-1)
    return replace(encoder, W_enc=W_enc * norms, b_enc=b_enc * norms)


def _threshold(tensors: Tensors, n: int) -> Float[Tensor, " feature"]:
    """The thresholds; checkpoints of earlier releases keep their logarithms."""
    if "log_threshold" in tensors and "threshold" not in tensors:
        return tensors.take("log_threshold", n).exp()
    return tensors.take("threshold", n)


def _decoder(
    config: SAELensConfig, tensors: Tensors, W_dec: Float[Tensor, "feature d_out"]
) -> Float[Tensor, "feature d_out"]:
    """The decoder, with the scales of features that are applied before it."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):  # before SAELens 6
        if name not in tensors:
            continue
        scale = tensors.take(name, config.d_sae)
        if config.scaled:
            W_dec = W_dec * scale[:, None]
        elif not torch.allclose(scale, torch.ones_like(scale)):
            raise InputError(
                f"{tensors.source} holds a {name}, and its configuration says that none is applied"
            )
    if config.rescale:
        # A row of zeros stays one: its feature writes nothing.
        W_dec = W_dec / W_dec.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(W_dec.dtype).tiny)
    return W_dec


def _said(config: SAELensConfig, name: str) -> str | None:
    said = config.metadata.get(name)
    return said if isinstance(said, str) and said else None
