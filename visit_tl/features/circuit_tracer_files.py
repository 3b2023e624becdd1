"""Per-layer transcoders of circuit-tracer: `config.yaml` beside `layer_<n>.safetensors`.

As circuit-tracer's release 0.4 reads them (MIT licence, `transcoder/single_layer_transcoder.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from visit_tl.errors import InputError
from visit_tl.features.config_fields import ConfigFields
from visit_tl.features.encoders import Activation, JumpReLU, LinearEncoder, ReLU, TopK
from visit_tl.features.feature_module import FeatureModule
from visit_tl.features.weight_files import Tensors, read_tensors

CONFIG: Final = "config.yaml"
_LARGEST_CONFIG: Final = 100_000
_CROSS_LAYER: Final = (
    "it is a cross-layer transcoder, whose features write to many layers; a feature module writes "
    "to one hook, so these are not opened"
)


def read_circuit_tracer(
    path: Path,
    *,
    layer: int | None,
    hook: str | None,
    hook_out: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> FeatureModule:
    """One transcoder of a folder of circuit-tracer.

    Args:
        path: The folder, or the file of one layer in it.
        layer: Which layer, if `path` does not say it.
        hook: The hook that it reads; None for what the configuration says.
        hook_out: The hook that it reconstructs, likewise.
        device: Where it computes.
        dtype: The type in which it computes.

    Raises:
        InputError: a file is missing, broken, or describes what is not known here.
    """
    folder = path if path.is_dir() else path.parent
    config = ConfigFields(_read_yaml(folder / CONFIG), str(folder / CONFIG))
    kind = config.text("model_kind", "transcoder_set")
    if kind == "cross_layer_transcoder" or (folder / "W_enc_0.safetensors").exists():
        raise InputError(f"{folder} is not opened: {_CROSS_LAYER}")
    if kind != "transcoder_set":
        raise InputError(f"{config.source} has model_kind={kind!r}, expected 'transcoder_set'")
    weights, layer = _weights_of(path, layer)
    tensors = Tensors(read_tensors(weights), str(weights), device, dtype)
    if "w_enc" in tensors:
        raise InputError(
            f"{weights} has the names of Gemma Scope 2; circuit-tracer saves it as it is expected "
            f"here: TranscoderSet.to_safetensors(folder)"
        )
    n, d_in = tensors.width("W_enc", 0), tensors.width("W_enc", 1)
    d_out = tensors.width("W_dec", 1)
    activation, name = _activation(config, tensors, n)
    skip = "W_skip" in tensors
    module = FeatureModule(
        architecture=f"{name}{'skip_' * skip}transcoder",
        hook=hook or _hook(config, "feature_input_hook", layer),
        hook_out=hook_out or _hook(config, "feature_output_hook", layer),
        layer=layer,
        W_dec=tensors.take("W_dec", n, d_out),
        b_dec=tensors.take("b_dec", d_out),
        encoder=LinearEncoder(
            tensors.take("W_enc", n, d_in).T.contiguous(), tensors.take("b_enc", n), activation
        ),
        d_in=d_in,
        W_skip=tensors.take("W_skip", d_out, d_in) if skip else None,
        norm_out=False,
        model_name=config.text("model_name", None) or "",
        neuronpedia_id=None,
        name=weights.stem,
        path=weights,
        metadata={str(key): value for key, value in config.content.items()},
    )
    tensors.require_all_used()
    return module


def _read_yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file, without tags that make objects.

    Raises:
        InputError: it is no mapping in YAML, too long, or cannot be read.
    """
    import yaml

    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise InputError(f"{path} has more than 100 kB, too many for a configuration")
        found = yaml.load(path.read_text("utf-8"), _plain_yaml())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no YAML: {why}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"{path} is no mapping, but a {type(found).__name__}")
    return dict(found)


def _plain_yaml() -> Any:
    """The safe loader of PyYAML, which also refuses doubled keys and references.

    A few references to references stand for more values than fit in memory.
    """
    import yaml

    class Plain(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it refers to other parts of itself (*name)")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            found = super().construct_mapping(node, deep=deep)
            if len(found) < len(node.value):
                raise yaml.YAMLError("a key appears twice in one mapping")
            return found

    return Plain


def _weights_of(path: Path, layer: int | None) -> tuple[Path, int]:
    """The file of one layer, and which layer that is."""
    if path.name == CONFIG:  # the whole folder is meant
        path = path.parent
    if path.is_dir():
        if layer is None:
            there = sorted(path.glob("layer_*.safetensors"))
            raise InputError(
                f"{path} holds {len(there)} transcoders, one a layer; say which, such as layer=3, "
                f"or open its file"
            )
        return path / f"layer_{layer}.safetensors", layer
    named = re.fullmatch(r"layer_(\d{1,5})", path.stem)
    if layer is None and named is None:
        raise InputError(f"the name of {path} does not say its layer; say it, such as layer=3")
    if layer is not None and named is not None and int(named[1]) != layer:
        raise InputError(f"{path} is of layer {int(named[1])}, and layer={layer} was asked for")
    return path, int(named[1]) if named else int(layer or 0)


def _hook(config: ConfigFields, name: str, layer: int) -> str:
    place = config.text(name, None)
    if not place or not re.fullmatch(r"[A-Za-z0-9_.]+", place):
        raise InputError(
            f"{config.source} has {name}={place!r}, expected the name of a hook in a block, such "
            f"as hook_resid_mid"
        )
    return f"blocks.{layer}.{place}"


def _activation(config: ConfigFields, tensors: Tensors, n: int) -> tuple[Activation, str]:
    """The activation, and what of the architecture's name says which it is."""
    asked = config.text("activation", None)
    stored = tensors.count("k") if "k" in tensors else None
    if asked == "topk" or (asked is None and stored is not None):
        said = config.whole("k", None)
        if said is None and stored is None:
            raise InputError(f"{config.source} says topk, and neither it nor the weights say k")
        if said is not None and stored is not None and said != stored:
            raise InputError(f"{config.source} says k={said}, and {tensors.source} k={stored}")
        k = stored if said is None else said
        if k is None or not 1 <= k <= n:
            raise InputError(f"{config.source} has k={k}, expected 1..{n}")
        return TopK(k, relu=False), "topk_"
    if asked == "relu":
        return ReLU(), ""
    if asked not in (None, "jump_relu", "jumprelu"):
        raise InputError(
            f"{config.source} has activation={asked!r}; known are relu, topk, jumprelu"
        )
    threshold = "activation_function.threshold"
    if threshold in tensors:
        return JumpReLU(tensors.take(threshold, n), relu=False), "jumprelu_"
    if asked is not None:
        raise InputError(f"{config.source} says {asked}, and {tensors.source} has no {threshold}")
    return ReLU(), ""
