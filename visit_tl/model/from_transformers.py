"""A model that transformers has opened becomes one of TransformerLens."""

from __future__ import annotations

import copy
import importlib.util
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
    """Whether it is a model of transformers, by what it offers."""
    config = getattr(model, "config", None)
    return (
        isinstance(getattr(config, "model_type", None), str)
        and callable(getattr(model, "get_output_embeddings", None))
        and not hasattr(model, "cfg")
    )


def name_of(hf_model: Any) -> str:
    """What a graph calls the model: the last part of where it came from, or its type."""
    origin = Path(str(getattr(hf_model.config, "_name_or_path", "") or "")).name
    return origin or str(hf_model.config.model_type)


def open_transformers(hf_model: Any, tokenizer: Any, kwargs: dict[str, Any]) -> Any:
    """Build the TransformerLens model around one that transformers has opened.

    The weights are not copied: a bridge holds this very model, sets its attention to `eager` and
    puts its own modules in place of it.

    Args:
        hf_model: A decoder with its unembedding.
        tokenizer: Its tokenizer; None looks where the model came from, on this machine only.
        kwargs: Passed to `TransformerBridge.boot_transformers`.

    Raises:
        ModelError: it is no such model, or no tokenizer is found.
        InputError: `kwargs` would move or convert the caller's model.
    """
    kind = type(hf_model).__name__
    if asked := sorted({"device", "dtype", "hf_model", "load_weights"} & kwargs.keys()):
        raise InputError(
            f"{kind} is opened already, so {', '.join(asked)} cannot be given; move or convert it "
            f"before, as in load_model(model.to(...), tokenizer=tokenizer)"
        )
    hf_model = _with_adapters_in_its_layers(hf_model)
    if hf_model.get_output_embeddings() is None:
        raise ModelError(
            f"{kind} has no unembedding, so nothing of it reads as words; open it with "
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
    """The bridge around a model, or its conversion where TransformerLens is older than 3.

    Args:
        hf_model: A model of transformers on `device`.
        tokenizer: Its tokenizer.
        folder: The folder that both were read from; None if there is none.
        dtype: Its torch dtype.
        device: Its torch device.
        kwargs: What else the loader of TransformerLens takes.
    """
    kwargs = dict(kwargs)
    if not has_bridge():
        from visit_tl.model.hooked import hooked_from_folder

        if folder is not None:
            return hooked_from_folder(folder, hf_model, tokenizer, dtype, device, kwargs)
        with tempfile.TemporaryDirectory(prefix="visit-tl-") as place:
            config = copy.deepcopy(hf_model.config)
            config.architectures = architectures(hf_model)
            # TransformerLens 2 asks GPT-2 for it; transformers has stopped to write it.
            config.n_ctx = getattr(config, "n_ctx", config.max_position_embeddings)
            config.save_pretrained(place)
            return hooked_from_folder(Path(place), hf_model, tokenizer, dtype, device, kwargs)
    from transformer_lens.model_bridge import TransformerBridge

    # On TransformerLens's copy of the configuration; the caller's stays as it is.
    overrides = {"architectures": architectures(hf_model)} | (
        kwargs.pop("hf_config_overrides", None) or {}
    )
    return TransformerBridge.boot_transformers(
        str(folder) if folder is not None else type(hf_model).__name__,
        hf_model=hf_model,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        hf_config_overrides=overrides,
        **kwargs,
    )


def architectures(hf_model: Any) -> list[str]:
    """The class that TransformerLens is to go by, where the configuration names none.

    GGUF files and configurations made in code name none.
    """
    named = getattr(hf_model.config, "architectures", None)
    if named:
        return list(named)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # A class of the caller's own is one of transformers' by inheritance.
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    own = [kind.__name__ for kind in type(hf_model).__mro__ if kind.__name__ in known]
    mapped = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf_model.config.model_type)
    return (own or [mapped or type(hf_model).__name__])[:1]


def _with_adapters_in_its_layers(hf_model: Any) -> Any:
    """The model inside a peft model, which has the adapters in its layers; others as they are."""
    if not callable(getattr(hf_model, "get_base_model", None)):
        return hf_model
    import torch

    inner = hf_model.get_base_model()
    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(hf_model.parameters()).device)
    with torch.no_grad():
        try:
            same = torch.equal(hf_model(tokens).logits, inner(tokens).logits)
        except Exception:  # prompt tuning may say so in any way
            same = False
    if not same or inner is hf_model:
        raise ModelError(
            f"{type(hf_model).__name__} does more than its layers do, as prompt and prefix tuning "
            f"do, so it cannot be read; where its adapters can be merged, give load_model what "
            f"model.merge_and_unload() returns"
        )
    return inner


def _tokenizer_of(hf_model: Any) -> Any:
    """The tokenizer of where a model came from, if that is on this machine."""
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
    """A copy of a tokenizer in a folder of its own, as long as the folder is needed.

    TransformerLens gives a tokenizer BOS and padding tokens, and opens it again by its path or,
    over the network, by its name.
    """
    if not callable(getattr(tokenizer, "save_pretrained", None)):
        raise InputError(
            f"tokenizer= is a tokenizer of transformers, got {type(tokenizer).__name__}; open it "
            f"with AutoTokenizer.from_pretrained(...)"
        )
    with tempfile.TemporaryDirectory(prefix="visit-tl-") as folder:
        tokenizer.save_pretrained(folder)
        yield type(tokenizer).from_pretrained(folder, local_files_only=True)
