"""Open a GGUF file with transformers, and check the model against the file's header."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final

from visit_tl.errors import ModelError, VisitError
from visit_tl.model.embedded.dequantise import gguf_model, gguf_tokenizer, transformers_version
from visit_tl.model.from_transformers import own_copy, wrapped

MAGIC: Final = b"GGUF"

# Numbers in the file's header, without the prefix of the architecture, and their names in the
# configurations of transformers.
_STATED: Final[dict[str, tuple[str, ...]]] = {
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_epsilon": (
        "layer_norm_epsilon",
        "layer_norm_eps",
        "norm_epsilon",
        "norm_eps",
    ),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "rope.freq_base": ("rope_theta",),
    "rope.scaling.factor": ("factor",),
}
# The value that a number has if a configuration does not state it. The numbers not listed here are
# not compared then.
_UNSAID: Final = {
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "rope.scaling.factor": 1,
}


def is_gguf(path: Path) -> bool:
    """Whether a file begins with the bytes of a GGUF file."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_gguf(path: Path, tokenizer: Any, verbose: bool, kwargs: dict[str, Any]) -> Any:
    """Open a GGUF file; weights become float32 on the CPU unless `kwargs` say otherwise.

    Args:
        path: The file.
        tokenizer: A tokenizer of transformers, instead of the one in the file.
        verbose: Show progress.
        kwargs: `dtype`, `device`, and other arguments of the loader of TransformerLens.

    Raises:
        ModelError: it is not a GGUF file, it is damaged, or transformers or TransformerLens cannot
            open it without leaving something out.
    """
    import torch

    kwargs = dict(kwargs)
    dtype = kwargs.pop("dtype", torch.float32)
    device = str(kwargs.pop("device", None) or "cpu")
    reader = _read(path)
    kind = _architecture(path, reader)
    with _isolated(path) as link, nullcontext() if verbose else redirect_stderr(StringIO()):
        with _refusals(path, kind, "its weights"):
            hf_model, unfilled = gguf_model(link, dtype)
        _require_all(path, reader, hf_model, unfilled)
        _require_same_numbers(path, kind, reader, hf_model.config)
        if tokenizer is None:
            with _refusals(path, kind, "its tokenizer (pass another with tokenizer=)"):
                tokenizer = gguf_tokenizer(link)
    _forget_quantisation(hf_model)
    with own_copy(tokenizer) as copied, _refusals(path, kind, "it with TransformerLens"):
        opened = wrapped(hf_model.to(device), copied, None, dtype, device, kwargs)
    opened.cfg.model_name = path.stem
    return opened


def _read(path: Path) -> Any:
    """Read the header of a file, and check that the file is complete."""
    from gguf import GGUFReader

    if not is_gguf(path):
        raise ModelError(
            f"{path} is a file, but no GGUF file (it does not begin with 'GGUF'); give a .gguf "
            f"file, or the folder that a model was saved in"
        )
    try:
        reader = GGUFReader(path)
    except Exception as error:
        raise ModelError(
            f"{path} is damaged or cut short: its {path.stat().st_size:,} bytes do not match its "
            f"header ({type(error).__name__}: {str(error)[:200]}); download it again"
        ) from error
    parts = reader.fields.get("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise ModelError(
            f"{path} is one of {int(parts.contents())} parts of a model; join them first "
            f"(llama.cpp: llama-gguf-split --merge)"
        )
    return reader


def _architecture(path: Path, reader: Any) -> str:
    """The architecture that the file states, such as `llama`."""
    field = reader.fields.get("general.architecture")
    if field is None or not reader.tensors:
        what = "tensors" if field is not None else "general.architecture"
        raise ModelError(f"{path} has no {what}, so it holds no model that could be opened")
    return str(field.contents())


def _require_all(path: Path, reader: Any, hf_model: Any, unfilled: list[str]) -> None:
    """Require that every weight of the file is in the model, and every weight of the model in it.

    transformers fills weights that it does not find with random numbers, and ignores tensors that
    it does not know.
    """
    if unfilled:
        raise ModelError(
            f"{path} lacks weights that {type(hf_model).__name__} has: {_some(unfilled)}; the file "
            f"is incomplete, or holds another variant of the model"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    output, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
    if (
        hf_model.config.tie_word_embeddings
        and output is not None
        and embedding is not None
        and bytes(output.data) == bytes(embedding.data)
    ):
        del tensors["output.weight"]  # a copy of the embedding
    stored = sum(int(tensor.n_elements) for tensor in tensors.values())
    used = sum(parameter.numel() for parameter in hf_model.parameters())
    if stored != used:
        loose = [name for name in tensors if name.startswith("rope_")]
        names = f", such as {_some(loose)}" if loose else ""
        raise ModelError(
            f"{path} holds {stored:,} numbers, of which transformers {transformers_version()} puts "
            f"{used:,} into {type(hf_model).__name__}{names}; what is left out would change what "
            f"the model computes. Open the model from its original folder instead"
        )


def _require_same_numbers(path: Path, kind: str, reader: Any, config: Any) -> None:
    """Require that the configuration and the file agree on each number that both state."""
    read_of = {key: _of_config(config, names) for key, names in _STATED.items()}
    read_of["rope.dimension_count"] = _rotated(config)
    for key, read in read_of.items():
        field = reader.fields.get(f"{kind}.{key}")
        stated = None if field is None else field.contents()
        read = _UNSAID.get(key) if read is None else read
        if not isinstance(stated, int | float) or not isinstance(read, int | float):
            continue
        if key == "attention.sliding_window" and min(stated, read or stated) >= _context(config):
            continue  # such a window hides nothing
        if not math.isclose(stated, read, rel_tol=1e-5):
            raise ModelError(
                f"{path} says {kind}.{key} = {stated:g}, and transformers "
                f"{transformers_version()} reads {read:g}; the model would compute something "
                f"else. Open it from its original folder instead"
            )


def _of_config(config: Any, names: tuple[str, ...]) -> Any:
    """The first of these that a configuration or its rotary part has."""
    rotary = _rotary(config)
    for name in names:
        found = rotary.get(name, getattr(config, name, None))
        if found is not None:
            return found
    return None


def _rotary(config: Any) -> dict[str, Any]:
    """The part of a configuration about rotary positions; empty if there is none."""
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return said.get("full_attention", said)


def _rotated(config: Any) -> int | None:
    """How many dimensions of a head are rotated; None if the configuration does not say."""
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    share = _rotary(config).get(
        "partial_rotary_factor", getattr(config, "partial_rotary_factor", None)
    )
    return None if width is None else int(width * (1 if share is None else share))


def _context(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or 0)


def _forget_quantisation(hf_model: Any) -> None:
    """Remove the marks of quantisation from a model whose weights have been dequantised."""
    for owner, name in ((hf_model.config, "quantization_config"), (hf_model, "hf_quantizer")):
        if hasattr(owner, name):
            delattr(owner, name)
    hf_model.is_quantized = False


@contextmanager
def _isolated(path: Path) -> Iterator[Path]:
    """A link to the file in an empty folder, since transformers also reads the files next to it."""
    with tempfile.TemporaryDirectory(prefix="visit-tl-") as folder:
        link = Path(folder) / "model.gguf"
        try:
            os.symlink(path.resolve(), link)
        except OSError:  # not everyone may make links on Windows
            try:
                os.link(path.resolve(), link)
            except OSError:
                link = path
        yield link


@contextmanager
def _refusals(path: Path, kind: str, what: str) -> Iterator[None]:
    try:
        yield
    except (VisitError, TypeError, MemoryError):
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ModelError(
            f"cannot open {what} of {path} (architecture {kind!r}) with transformers "
            f"{transformers_version()}: {type(error).__name__}: {reason[:300]}. Open the model "
            f"from the folder that it was converted from, or as an architecture that GGUF files "
            f"and TransformerLens share, such as llama, qwen2, qwen3, gemma2 or gpt2"
        ) from error


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
