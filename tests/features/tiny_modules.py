"""Small random SAEs and transcoders for any model of the tests, and what they compute, in loops."""

from __future__ import annotations

import torch

from visit_tl.features import FeatureModule
from visit_tl.features.encoders import JumpReLU, LinearEncoder, ReLU, TopK
from visit_tl.model.view import ModelView

SITES = ("z", "attn_out", "resid_mid", "mlp_out", "resid_pre", "resid_post", "transcoder", "skip")
_HOOKS = {
    "z": "attn.hook_z",
    "transcoder": "mlp.hook_in",
    "skip": "mlp.hook_in",
    **{site: f"hook_{site}" for site in ("attn_out", "resid_mid", "mlp_out", "resid_pre")},
    "resid_post": "hook_resid_post",
}


def module(view, site, layer=1, *, n=24, seed=0, activation=None, **more):
    """A module of random weights at one site of a block; `transcoder` reads what the MLP reads."""
    generator = torch.Generator().manual_seed(seed + 100 * SITES.index(site) + layer)

    def random(*shape, scale=0.4):
        return torch.randn(*shape, generator=generator) * scale

    d_in = view.z_width(layer) if site == "z" else view.model.cfg.d_model
    hook = f"blocks.{layer}.{_HOOKS[site]}"
    out = f"blocks.{layer}.hook_mlp_out" if site in ("transcoder", "skip") else hook
    encoder = LinearEncoder(random(d_in, n), random(n, scale=0.2), activation or ReLU())
    settings = {
        "architecture": "standard",
        "b_in": random(d_in, scale=0.1),
        "W_skip": random(d_in, d_in, scale=0.2) if site == "skip" else None,
        "flatten_heads": site == "z",
        "name": f"tiny-{site}",
    }
    return FeatureModule(
        hook=hook,
        hook_out=out,
        layer=layer,
        W_dec=random(n, d_in),
        b_dec=random(d_in, scale=0.1),
        encoder=encoder,
        d_in=d_in,
        **(settings | more),
    )


def several(view, layer=1, sites=("z", "attn_out", "resid_mid", "transcoder", "resid_post")):
    """One module at each of these sites that the model has, of several encoders and norms."""
    kinds = {
        "z": {"norm": "layer_norm"},
        "attn_out": {"activation": TopK(5, "magnitude", relu=False)},
        "resid_mid": {"norm": "constant_norm_rescale"},
        "mlp_out": {"activation": JumpReLU(torch.full((24,), 0.1))},
    }
    there = [site for site in sites if not (site == "resid_mid" and view.parallel)]
    return [module(view, site, layer, **kinds.get(site, {})) for site in there]


def named_hooks(view, tokens, names, segments=None):
    """What the model itself holds at some hooks, by its own run."""
    kept = {}

    def keep(name):
        def copy(tensor, hook):
            kept[name] = tensor[0].detach().float().clone()

        return copy

    with torch.no_grad():
        view.model.run_with_hooks(tokens, fwd_hooks=[(name, keep(name)) for name in names])
    return kept


def view_of(model):
    return ModelView(model)
