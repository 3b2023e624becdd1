"""Use of transformers, for all of its releases: GGUF to float32, and hiding progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file with transformers' own loader and save it as float32 safetensors.

    Args:
        gguf: The weights.
        folder: Receives configuration, weights and tokenizer; must not exist.
    """
    import torch

    with quiet_progress_bars():
        tokenizer = gguf_tokenizer(gguf)
        dequantised, _ = gguf_model(gguf, torch.float32)
        config = dequantised.config.to_dict()
        # save_pretrained refuses a model that was quantised, so the weights go into a new float32
        # model. The path is dropped since it would be that of the staging folder.
        for key in ("quantization_config", "_name_or_path"):
            config.pop(key, None)
        with torch.random.fork_rng(devices=[]):
            plain = type(dequantised)(type(dequantised.config).from_dict(config))
        plain.load_state_dict(dequantised.state_dict())
        plain.tie_weights()
        plain.save_pretrained(folder, max_shard_size="20GB")
        tokenizer.save_pretrained(folder)


def gguf_model(gguf: Path, dtype: Any) -> tuple[Any, list[str]]:
    """The model of a GGUF file, its weights dequantised.

    Returns:
        The model, with eager attention, which shows its pattern to hooks; and the names of the
        parameters that the file does not fill.
    """
    from transformers import AutoModelForCausalLM

    opened: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        local_files_only=True,
        attn_implementation="eager",
        output_loading_info=True,
        **{dtype_argument(): dtype},
    )
    model, said = opened
    unfilled = {*said["missing_keys"], *(key for key, *_ in said["mismatched_keys"])}
    return model, sorted(unfilled)


def gguf_tokenizer(gguf: Path) -> Any:
    """The tokenizer that a GGUF file carries."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)


def dtype_argument() -> str:
    """The name of `from_pretrained`'s dtype parameter, which changed in transformers 4.56."""
    major, minor = (int(part) for part in transformers_version().split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def transformers_version() -> str:
    """The installed release of transformers."""
    # Read from the metadata, since importing transformers takes most of a second.
    return version("transformers")


@contextmanager
def quiet_progress_bars(quiet: bool = True) -> Iterator[None]:
    """Switch off the progress bars of transformers and its hub client, then restore them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    # False means that the user set HF_HUB_DISABLE_PROGRESS_BARS=0; the hub client warns if bars are
    # switched off in spite of it.
    if not quiet or constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    had_bars, had_hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    # This call and enable_progress_bar also switch the bars of the hub client.
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()
        if had_bars and not had_hub_bars:
            disable_progress_bars()
        if had_hub_bars and not had_bars:
            enable_progress_bars()
