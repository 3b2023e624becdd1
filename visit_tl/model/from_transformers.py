"""Turn a model that transformers has opened into a TransformerLens model."""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visit_tl.errors import InputError, ModelError


def has_bridge() -> bool:
    """Whether the installed TransformerLens opens models as TransformerBridge (3.x, 4.x)."""
    return importlib.util.find_spec("transformer_lens.model_bridge") is not None


def is_transformers_model(model: Any) -> bool:
    """Whether an object is a model of transformers, judged by its attributes."""
    config = getattr(model, "config", None)
    return (
        isinstance(getattr(config, "model_type", None), str)
        and callable(getattr(model, "get_output_embeddings", None))
        and not hasattr(model, "cfg")
    )


def name_of(hf_model: Any) -> str:
    """The model's name in a graph: the last part of its name or path, or else its type."""
    origin = Path(str(getattr(hf_model.config, "_name_or_path", "") or "")).name
    return origin or str(hf_model.config.model_type)


def open_transformers(hf_model: Any, tokenizer: Any, kwargs: dict[str, Any]) -> Any:
    """Build the TransformerLens model around one that transformers has opened.

    The weights are not copied: a bridge holds the model that is passed, sets its attention to
    `eager`, and puts its own modules into it.

    Args:
        hf_model: A decoder with its unembedding.
        tokenizer: Its tokenizer; None looks where the model was loaded from, on this machine only.
        kwargs: Passed to `TransformerBridge.boot_transformers`.

    Raises:
        ModelError: the model cannot be used (see the message), or no tokenizer is found.
        InputError: `kwargs` would move or convert the caller's model.
    """
    kind = type(hf_model).__name__
    if asked := sorted({"device", "dtype", "hf_model", "load_weights"} & kwargs.keys()):
        raise InputError(
            f"{kind} is opened already, so {', '.join(asked)} cannot be given; move or convert it "
            f"first, as in load_model(model.to(...), tokenizer=tokenizer)"
        )
    hf_model = _with_adapters_in_its_layers(hf_model)
    if hf_model.get_output_embeddings() is None:
        raise ModelError(
            f"{kind} has no unembedding, so the logit lens cannot read it; open it with "
            f"AutoModelForCausalLM instead of AutoModel"
        )
    if any(hasattr(module, "original_component") for module in hf_model.modules()):
        raise ModelError(
            f"this {kind} is inside a TransformerBridge already; pass that bridge, or open the "
            f"model from transformers again"
        )
    name = name_of(hf_model)
    if tokenizer is None:
        tokenizer = _tokenizer_of(hf_model)
    first = next(hf_model.parameters())
    with own_copy(tokenizer) as copied:
        opened = wrapped(hf_model, copied, None, first.dtype, str(first.device), kwargs)
    opened.cfg.model_name = name
    return opened


def wrapped(
    hf_model: Any,
    tokenizer: Any,
    folder: Path | None,
    dtype: Any,
    device: str,
    kwargs: dict[str, Any],
) -> Any:
    """A bridge around a model, or a converted model if TransformerLens is older than 3.

    Args:
        hf_model: A model of transformers on `device`.
        tokenizer: Its tokenizer.
        folder: The folder that both were read from; None if there is none.
        dtype: Its torch dtype.
        device: Its torch device.
        kwargs: Other arguments of the loader of TransformerLens.
    """
    kwargs = dict(kwargs)
    if not has_bridge():
        from visit_tl.model.hooked_transformer import hooked_from_folder

        if folder is not None:
            return hooked_from_folder(folder, hf_model, tokenizer, dtype, device, kwargs)
        with tempfile.TemporaryDirectory(prefix="visit-tl-") as place:
            config = copy.deepcopy(hf_model.config)
            config.architectures = architectures(hf_model)
            # TransformerLens 2 needs n_ctx for GPT-2; newer transformers does not write it.
            config.n_ctx = getattr(config, "n_ctx", config.max_position_embeddings)
            config.save_pretrained(place)
            return hooked_from_folder(Path(place), hf_model, tokenizer, dtype, device, kwargs)
    from transformer_lens.model_bridge import TransformerBridge

    # Overrides act on TransformerLens's copy of the configuration, not on the caller's.
    overrides = {"architectures": architectures(hf_model)} | (
        kwargs.pop("hf_config_overrides", None) or {}
    )
    with nothing_installed():
        return TransformerBridge.boot_transformers(
            str(folder) if folder is not None else type(hf_model).__name__,
            hf_model=hf_model,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            hf_config_overrides=overrides,
            **kwargs,
        )


@contextmanager
def nothing_installed() -> Iterator[None]:
    """Keep TransformerLens from calling pip, as it does for models that also read pictures.

    For their processor, which no graph needs, it would install torchvision, and with it another
    torch.
    """
    helpers = sys.modules.get("transformer_lens.model_bridge.sources.transformers.helpers")
    own = getattr(helpers, "_ensure_torchvision", None)
    if helpers is None or own is None:
        yield
        return
    there = importlib.util.find_spec("torchvision") is not None
    setattr(helpers, "_ensure_torchvision", lambda: there)  # noqa: B010
    try:
        yield
    finally:
        setattr(helpers, "_ensure_torchvision", own)  # noqa: B010


def architectures(hf_model: Any) -> list[str]:
    """The model's class name for TransformerLens, in a list as in a configuration.

    It is taken from the configuration, or else from the model's class: GGUF files and
    configurations made in code name no class.
    """
    named = getattr(hf_model.config, "architectures", None)
    if named:
        return list(named)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # A caller's own class may inherit from a class of transformers.
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    own = [kind.__name__ for kind in type(hf_model).__mro__ if kind.__name__ in known]
    mapped = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf_model.config.model_type)
    return (own or [mapped or type(hf_model).__name__])[:1]


def _with_adapters_in_its_layers(hf_model: Any) -> Any:
    """The model inside a peft model, with the adapters in its layers; other models unchanged."""
    if not callable(getattr(hf_model, "get_base_model", None)):
        return hf_model
    import torch

    inner = hf_model.get_base_model()
    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(hf_model.parameters()).device)
    with torch.no_grad():
        try:
            same = torch.equal(hf_model(tokens).logits, inner(tokens).logits)
        except Exception:  # with prompt tuning these calls may fail in any way
            same = False
    if not same or inner is hf_model:
        raise ModelError(
            f"{type(hf_model).__name__} does more than its layers do, as prompt and prefix tuning "
            f"do, so it cannot be read; if its adapters can be merged, pass the result of "
            f"model.merge_and_unload() to load_model"
        )
    return inner


def _tokenizer_of(hf_model: Any) -> Any:
    """The tokenizer from where a model was loaded, if that is on this machine."""
    from transformers import AutoTokenizer

    origin = str(getattr(hf_model, "name_or_path", "") or "")
    remedy = "pass it: load_model(model, tokenizer=AutoTokenizer.from_pretrained(...))"
    if not origin:
        raise ModelError(
            f"{type(hf_model).__name__} does not say where it came from, so its tokenizer cannot "
            f"be found; {remedy}"
        )
    quantized = getattr(hf_model.config, "quantization_config", None)
    gguf = getattr(quantized, "gguf_file", None)
    options = {} if gguf is None else {"gguf_file": gguf}
    try:
        return AutoTokenizer.from_pretrained(origin, local_files_only=True, **options)
    except Exception as error:
        raise ModelError(
            f"{type(hf_model).__name__} came from {origin!r}, and no tokenizer is found there on "
            f"this machine ({type(error).__name__}); {remedy}"
        ) from error


@contextmanager
def own_copy(tokenizer: Any) -> Iterator[Any]:
    """A copy of a tokenizer, saved in a temporary folder that is removed afterwards.

    TransformerLens adds BOS and padding tokens to a tokenizer, and opens it again from its path or,
    over the network, by its name. With a copy, the caller's tokenizer is not changed and nothing is
    downloaded.
    """
    if not callable(getattr(tokenizer, "save_pretrained", None)):
        raise InputError(
            f"tokenizer= must be a tokenizer of transformers, got {type(tokenizer).__name__}; open "
            f"it with AutoTokenizer.from_pretrained(...)"
        )
    with tempfile.TemporaryDirectory(prefix="visit-tl-") as folder:
        tokenizer.save_pretrained(folder)
        yield type(tokenizer).from_pretrained(folder, local_files_only=True)
