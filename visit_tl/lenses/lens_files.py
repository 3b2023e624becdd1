"""Files of lenses: those of TransformerLens and tuned-lens, and our own. Nothing in them is run."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag, LensData
from visit_tl.arguments.words import short
from visit_tl.errors import FileError, InputError
from visit_tl.files import check, home, write
from visit_tl.lenses.maps import Lens
from visit_tl.lenses.transformer_lens_format import of_payload
from visit_tl.strict_json import parse_json

FORMAT: Final = "visit_tl lens 1"
"""What our own files say in their metadata."""
TUNED: Final = "tuned lens"
_PARAMETERS: Final = ("params.pt", "params.safetensors", "model.safetensors")
_TUNED_KEY: Final = re.compile(r"(?:layer_translators\.)?([0-9]{1,4})\.(weight|bias)")
_OWN_KEY: Final = re.compile(r"(map|bias)\.(-1|[0-9]{1,4})")


@checked
def load(path: File) -> Lens:
    """Read a lens from a file or folder; nothing in it is executed.

    - `.pt`: an artifact of TransformerLens's `JacobianLens` or of `anthropics/jacobian-lens`, or a
      checkpoint of a fit. It is read by `torch.load(weights_only=True)`.
    - `.safetensors`: what `Lens.save` wrote.
    - A folder with `config.json` and `params.pt` (or `params.safetensors`): a tuned lens, as the
      package tuned-lens writes it.

    Matrices may be of any float type; they become float32.

    Args:
        path: The file or folder.

    Raises:
        FileError: it cannot be read, is truncated, or is no lens; the message says why.
    """
    where = home(path)
    _require_regular(where)
    try:
        if where.is_dir():
            return _tuned(where)
        if where.suffix.lower() == ".safetensors":
            return _own(where)
        if where.suffix.lower() in (".pt", ".pth", ".bin"):
            payload = _unpickled(where)
            if payload and all(_TUNED_KEY.fullmatch(str(key)) for key in payload):
                raise FileError(
                    f"{where} holds the translators of a tuned lens, which is read from its "
                    f"folder, with config.json beside them: {where.parent}"
                )
            return of_payload(payload, str(where))
    except InputError as error:
        raise FileError(f"{where}: {error}") from error
    raise FileError(
        f"{where} is no lens: it must be a .pt or .safetensors file, or a folder with config.json "
        f"and {' or '.join(_PARAMETERS)}"
        + ("" if where.exists() else "; there is no such file or folder")
    )


@checked
def save(lens: LensData, path: File, *, overwrite: Flag = False) -> Path:
    """Write a lens to a `.safetensors` file, which `load` reads.

    Args:
        lens: The lens.
        path: Where; the folder must exist.
        overwrite: Replace an existing file.

    Returns:
        The path.

    Raises:
        FileError: the suffix is another, the path cannot be written, or a file is there.
        InputError: its facts hold a number that is not finite, or are nested without end.
    """
    from safetensors.torch import save as packed

    where = check(path, (".safetensors",), overwrite=overwrite)
    # Copied, since safetensors refuses what shares memory, such as one matrix for all blocks.
    kept = {"map": lens.maps, "bias": lens.biases}
    tensors = {
        f"{kind}.{block}": tensor.clone(memory_format=torch.contiguous_format)
        for kind, by_block in kept.items()
        for block, tensor in by_block.items()
    }
    facts = {name: getattr(lens, name) for name in ("name", "model", "n_layers", "raw")}
    facts["facts"] = {str(name): value for name, value in lens.facts.items()}
    try:
        text = json.dumps(facts, default=str, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the facts of {lens!r} cannot be written as JSON: {error}; pass "
            f"dataclasses.replace(lens, facts=...) with others"
        ) from error
    write(where, packed(tensors, metadata={"format": FORMAT, "lens": text}))
    return where


def _own(path: Path) -> Lens:
    tensors, metadata = _safetensors(path)
    if metadata.get("format") != FORMAT:
        raise FileError(
            f"{path} says format {short(metadata.get('format'))}, not {FORMAT!r}; a tuned lens is "
            f"read from its folder, with config.json beside its parameters"
        )
    facts = _json_object(metadata.get("lens", ""), f"the metadata of {path}")
    maps, biases = {}, {}
    for key, tensor in tensors.items():
        found = _OWN_KEY.fullmatch(key)
        if found is None:
            raise FileError(f"{path} holds the tensor {short(key)}; lenses hold map.N and bias.N")
        (maps if found[1] == "map" else biases)[int(found[2])] = tensor
    kinds = {"name": (str,), "model": (str, type(None)), "n_layers": (int, type(None)),
             "raw": (bool,), "facts": (dict,)}  # fmt: skip
    for name, wanted in kinds.items():
        if not isinstance(facts.get(name), wanted) or (name != "raw" and facts.get(name) is True):
            raise FileError(f"the metadata of {path} says {name}: {short(facts.get(name))}")
    return Lens(maps=maps, biases=biases, **{name: facts[name] for name in kinds})


def _tuned(folder: Path) -> Lens:
    """A tuned lens: translator i reads the state before block i, as `v + A_i v + b_i`."""
    _require_regular(folder / "config.json")
    try:
        config = _json_object((folder / "config.json").read_text("utf-8"), f"{folder}/config.json")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{folder} is no tuned lens: config.json cannot be read: {error}"
        ) from error
    path = next((folder / name for name in _PARAMETERS if (folder / name).is_file()), None)
    if path is None:
        raise FileError(f"{folder} has config.json but none of {', '.join(_PARAMETERS)}")
    kind = config.get("lens_type", "linear_tuned_lens")
    d_model, n_layers = (_size(config.get(name)) for name in ("d_model", "num_hidden_layers"))
    if kind != "linear_tuned_lens" or not d_model or not n_layers:
        raise FileError(
            f"{folder}/config.json says lens_type {short(kind)}, d_model "
            f"{short(config.get('d_model'))}, num_hidden_layers "
            f"{short(config.get('num_hidden_layers'))}; a linear_tuned_lens with both "
            f"sizes can be read"
        )
    state = _safetensors(path)[0] if path.suffix == ".safetensors" else _unpickled(path)
    maps, biases = {}, {}
    for key, tensor in state.items():
        found = _TUNED_KEY.fullmatch(str(key))
        if found is None or not isinstance(tensor, Tensor) or int(found[1]) >= n_layers:
            raise FileError(f"{path} holds {str(key)[:60]!r}, no parameter of a translator")
        weight = found[2] == "weight"
        if list(tensor.shape) != [d_model] * (1 + weight):
            raise FileError(f"{path}: {key} is {list(tensor.shape)}, and d_model is {d_model}")
        # Translator i is of hidden_states[i], the output of block i - 1.
        (maps if weight else biases)[int(found[1]) - 1] = tensor
    # Counted first: a range as long as a crafted configuration says may not fit in memory.
    if len(maps) != n_layers or sorted(maps) != list(range(-1, n_layers - 1)):
        raise FileError(f"{path} has {len(maps)} translators, and num_hidden_layers is {n_layers}")
    identity = torch.eye(d_model)
    maps = {block: identity + tensor.float() for block, tensor in maps.items()}
    name = config.get("base_model_name_or_path")
    facts = {key: value for key, value in config.items() if isinstance(value, str | int | None)}
    name = name if isinstance(name, str) and name else None
    return Lens(TUNED, maps, biases, name, n_layers, True, facts)


def _require_regular(path: Path) -> None:
    """Refuse pipes and devices, which may never come to an end.

    Raises:
        FileError: it is there, and neither a file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FileError(f"{path} is neither a file nor a folder")


def _size(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _unpickled(path: Path) -> Mapping[str, Any]:
    """The dict of tensors and plain values in a file of `torch.save`.

    Raises:
        FileError: it cannot be read, or holds something else.
    """
    # weights_only was not safe before 2.6 (CVE-2025-32434).
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        raise FileError(
            f"{path} is a pickle, and torch {torch.__version__} cannot read one safely (2.6 can); "
            f"save the lens as .safetensors where you trust the file"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    except Exception as error:
        raise FileError(
            f"{path} is truncated, or holds more than tensors and plain values, and is not opened "
            f"({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})"
        ) from error
    if not isinstance(found, Mapping):
        raise FileError(f"{path} holds a {type(found).__name__}, not a dict")
    return found


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        FileError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except (OSError, SafetensorError, ValueError, RuntimeError, struct.error) as error:
        raise FileError(f"{path} cannot be read: {str(error)[:200]}") from error


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise FileError(f"{where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise FileError(f"{where} is a {type(found).__name__}, not an object")
    return found
