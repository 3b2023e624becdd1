"""`open`: an SAE or a transcoder from a folder, a file or an object becomes a `FeatureModule`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import torch

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.vocabulary import Name
from visit_tl.errors import FileError, InputError
from visit_tl.features.feature_module import FeatureModule
from visit_tl.features.saelens_config import read_config
from visit_tl.features.saelens_module import module_of
from visit_tl.features.saelens_object import config_of, is_sae, tensors_of
from visit_tl.features.weight_files import Tensors, read_tensors, refuse_pickle
from visit_tl.strict_json import parse_json

Source = Annotated[Any, Unchecked("open says which forms it takes")]
Device = Annotated[Any, Unchecked("torch says which devices it knows")]
Dtype = Annotated[Any, Unchecked("open says which types it computes in")]

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
_LARGEST_CONFIG: Final = 10_000_000


@checked
def open(  # noqa: A001
    source: Source,
    *,
    hook: Name | None = None,
    hook_out: Name | None = None,
    model_name: Name | None = None,
    device: Device = "cpu",
    dtype: Dtype = torch.float32,
) -> FeatureModule:
    """Open an SAE or a transcoder.

    Args:
        source: A folder that SAELens saved (`cfg.json`, `sae_weights.safetensors`), a file in it,
            or a `sae_lens.SAE`.
        hook: The hook that it reads, if its configuration names none or a name that the model does
            not know.
        hook_out: The hook that a transcoder reconstructs, likewise.
        model_name: The model that it is for, if its configuration names it otherwise.
        device: Where it computes.
        dtype: `torch.float32` or `torch.float64`. Weights in half precision are widened, which
            loses nothing.

    Returns:
        The module, which is independent of what it was opened from.

    Raises:
        FileError: a file is missing, broken, or describes what is not known here.
        InputError: this is neither a path nor an SAE, or another type was asked for.
    """
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"features are computed in torch.float32 or torch.float64, got {dtype}; in half "
            f"precision the parts would not sum to the whole"
        )
    place = _device(device)
    if isinstance(source, str | Path):
        module = _from_folder(Path(source), hook, hook_out, place, dtype)
    elif is_sae(source):
        about = f"this {type(source).__name__}"
        config = read_config(config_of(source), about, hook, hook_out)
        tensors = Tensors(tensors_of(source), about, place, dtype)
        module = module_of(config, tensors, name=type(source).__name__, path=None)
    else:
        raise InputError(
            f"a feature module is opened from a folder, a file or a sae_lens.SAE, got a "
            f"{type(source).__name__}"
        )
    return module if model_name is None else _named(module, model_name)


def _from_folder(
    path: Path, hook: str | None, hook_out: str | None, device: torch.device, dtype: torch.dtype
) -> FeatureModule:
    refuse_pickle(path)
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}")
    config = folder / CONFIG
    if not config.is_file():
        raise FileError(f"{folder} has no {CONFIG}; a folder of SAELens has it beside its weights")
    described = read_config(read_json(config), str(config), hook, hook_out)
    weights = path if path.suffix == ".safetensors" else folder / WEIGHTS
    tensors = Tensors(read_tensors(weights), str(weights), device, dtype)
    return module_of(described, tensors, name=folder.resolve().name, path=weights)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileError: it is no JSON, too long for a configuration, or cannot be read.
    """
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise FileError(f"{path} has more than 10 MB, too many for a configuration")
        return parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is no JSON: {error}") from error


def _device(given: Any) -> torch.device:
    try:
        return torch.device(given)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{given!r} is no device of torch: {error}") from error


def _named(module: FeatureModule, model_name: str) -> FeatureModule:
    from dataclasses import replace

    return replace(module, model_name=model_name)
