"""cfg.json of SAELens, of all its releases, as one plain description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from visit_tl.errors import InputError
from visit_tl.features.config_fields import ConfigFields

SAES: Final = ("standard", "gated", "jumprelu", "topk", "abstopk", "matching_pursuit")
TRANSCODERS: Final = (
    "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder",
)  # fmt: skip
ARCHITECTURES: Final = SAES + TRANSCODERS

_REFUSED: Final = {
    "temporal": "its features at a position depend on those before it, and a feature module reads "
    "one position",
    "batchtopk": "it is a checkpoint of training, whose features depend on the whole batch; save "
    "it with TrainingSAE.save_inference_model(folder), as jumprelu",
    "matryoshka_batchtopk": "it is a checkpoint of training, whose features depend on the whole "
    "batch; save it with TrainingSAE.save_inference_model(folder), as jumprelu",
}
_NORMS: Final = {
    # The factor is folded into the weights when training ends; SAELens applies none afterwards.
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm_rescale",
}
_MLP_INPUTS: Final = (
    "ln2.hook_normalized", "mlp.hook_in", "hook_mlp_in", "hook_resid_mid", "hook_resid_pre",
)  # fmt: skip


@dataclass(frozen=True)
class SAELensConfig:
    """What of a configuration decides what the module computes.

    Attributes:
        architecture: One of `ARCHITECTURES`.
        d_in: Width of the input.
        d_sae: Number of features.
        d_out: Width of the output.
        hook: The hook that it reads.
        hook_out: The hook that it reconstructs.
        head: The one head that it reads; None for all.
        norm: How inputs are normalised.
        subtract_b_dec: Whether `b_dec` is subtracted from inputs.
        flatten_heads: Whether the heads of `hook_z` are one vector.
        k: How many features TopK leaves; 0 for other architectures.
        rescale: Whether TopK compares features times the norm of their decoder rows.
        scaled: Whether a finetuning scale of features is applied when they are decoded.
        pursuit: `residual_threshold`, `max_iterations`, `stop_on_duplicate_support` of matching
            pursuit; empty for other architectures.
        metadata: All that the configuration says of training.
    """

    architecture: str
    d_in: int
    d_sae: int
    d_out: int
    hook: str
    hook_out: str
    head: int | None
    norm: str
    subtract_b_dec: bool
    flatten_heads: bool
    k: int
    rescale: bool
    scaled: bool
    pursuit: Mapping[str, Any]
    metadata: Mapping[str, Any]


def read_config(
    given: Any, source: str, hook: str | None = None, hook_out: str | None = None
) -> SAELensConfig:
    """A configuration as SAELens writes it, checked.

    Args:
        given: The content of cfg.json.
        source: Where it is from, for messages.
        hook: The hook, if the configuration names none or another.
        hook_out: The hook that is reconstructed, likewise.

    Raises:
        InputError: something is missing, of the wrong type, or not known here.
    """
    if not isinstance(given, dict):
        raise InputError(f"{source} is no JSON object, but a {type(given).__name__}")
    read = ConfigFields(_current(given, source), source)
    architecture = _architecture(read)
    transcoder = architecture in TRANSCODERS
    metadata = read.content["metadata"]
    named = hook or read.text("hook_name", None, metadata)
    if named is None:
        raise InputError(
            f"{source} names no hook; say which it reads, such as hook='blocks.9.hook_resid_pre'"
        )
    head = read.whole("hook_head_index", None, metadata)
    reshape = read.text("reshape_activations", "none")
    if reshape not in ("none", "hook_z"):
        raise InputError(f"{source} has reshape_activations={reshape!r}, known are none and hook_z")
    d_in = read.size("d_in")
    d_sae = read.size("d_sae")
    topk = architecture in ("topk", "abstopk")
    k = read.size("k") if topk else 0
    if k > d_sae:
        raise InputError(f"{source} has k={k}, which is more than its {d_sae} features")
    return SAELensConfig(
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        d_out=read.size("d_out") if transcoder else d_in,
        hook=named,
        hook_out=_hook_out(named, hook_out, read, transcoder),
        head=head,
        norm=_norm(read),
        subtract_b_dec=not transcoder and read.flag("apply_b_dec_to_input", True),
        flatten_heads=not transcoder and head is None and reshape == "hook_z",
        k=k,
        rescale=topk and read.flag("rescale_acts_by_decoder_norm", False),
        scaled=read.flag("finetuning_scaling_factor", False),
        pursuit=_pursuit(read, d_in) if architecture == "matching_pursuit" else {},
        metadata=metadata,
    )


def block_of(hook: str, source: str) -> int:
    """The block of a hook; `hook_embed` counts as that of block 0, which reads it.

    Raises:
        InputError: it is in no block.
    """
    if hook == "hook_embed":
        return 0
    found = re.fullmatch(r"blocks\.(\d{1,5})\.[A-Za-z0-9_.]+", hook)
    if found is None:
        raise InputError(
            f"{source} reads {hook!r}, which is no hook of a block; expected such as "
            f"'blocks.9.hook_resid_pre'"
        )
    return int(found[1])


def _current(given: dict[str, Any], source: str) -> dict[str, Any]:
    """The keys of SAELens 6, whatever release wrote them."""
    known = given.get("metadata", {})
    if not isinstance(known, dict):
        raise InputError(
            f"{source} has metadata that is a {type(known).__name__}, expected an object"
        )
    renamed = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index",
               "hook_point_layer": "hook_layer", "activation_fn_str": "activation_fn"}  # fmt: skip
    new = {renamed.get(key, key): value for key, value in given.items()}
    computed = {
        "architecture", "d_in", "d_sae", "d_out", "dtype", "device", "k", "metadata",
        "apply_b_dec_to_input", "normalize_activations", "reshape_activations",
        "rescale_acts_by_decoder_norm", "finetuning_scaling_factor",
    }  # fmt: skip
    new["metadata"] = {k: v for k, v in new.items() if k not in computed} | known
    normalize = new.get("normalize_activations")
    if normalize is None or isinstance(normalize, bool):  # before SAELens 3
        new["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    if "reshape_activations" not in new and "hook_z" in str(new.get("hook_name", "")):
        new["reshape_activations"] = "hook_z"
    options = new.get("activation_fn_kwargs") or {}
    if new.get("activation_fn") == "topk" and new.get("architecture", "standard") == "standard":
        new["architecture"] = "topk"
    if new.get("architecture") == "topk" and isinstance(options, dict):
        new.setdefault("k", options.get("k"))
    return new


def _architecture(read: ConfigFields) -> str:
    architecture = read.text("architecture", "standard") or "standard"
    if why := _REFUSED.get(architecture):
        raise InputError(f"{read.source} has the architecture {architecture!r}: {why}")
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{read.source} has the architecture {architecture!r}; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    activation = read.text("activation_fn", None)
    expected = ("relu", "topk") if architecture == "topk" else ("relu",)
    if activation is not None and activation not in expected:
        raise InputError(
            f"{read.source} has the activation {activation!r}; a {architecture} is known with "
            f"{' or '.join(expected)}"
        )
    return architecture


def _pursuit(read: ConfigFields, d_in: int) -> dict[str, Any]:
    return {
        "residual_threshold": read.number("residual_threshold", 1e-2),
        "max_iterations": read.whole("max_iterations", d_in),
        "stop_on_duplicate_support": read.flag("stop_on_duplicate_support", True),
    }


def _norm(read: ConfigFields) -> str:
    norm = read.text("normalize_activations", "none") or "none"
    if norm not in _NORMS:
        raise InputError(
            f"{read.source} has normalize_activations={norm!r}; known are {', '.join(_NORMS)}"
            + (
                "; SAELens folds a whitening into the weights when training ends, and this one is "
                "not folded"
            ) * (norm == "covariance_whitening")
        )  # fmt: skip
    return _NORMS[norm]


def _hook_out(hook: str, asked: str | None, read: ConfigFields, transcoder: bool) -> str:
    if not transcoder:
        if asked is not None and asked != hook:
            raise InputError(f"{read.source} is an SAE, which reconstructs what it reads, {hook}")
        return hook
    named = asked or read.text("hook_name_out", None, read.content["metadata"])
    if named:
        return named
    block, _, place = hook.partition(".")[2].partition(".")
    if place in _MLP_INPUTS[:4]:
        return f"blocks.{block}.hook_mlp_out"
    raise InputError(
        f"{read.source} reads {hook} and does not name the hook that it reconstructs; say it, such "
        f"as hook_out='blocks.{block}.hook_mlp_out'"
    )
