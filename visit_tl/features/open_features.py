"""`open`: an SAE or a transcoder from a folder, a file or an object becomes a `FeatureModule`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.vocabulary import Name, Whole
from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.features import circuit_tracer_files
from visit_tl.features.circuit_tracer_files import read_circuit_tracer
from visit_tl.features.feature_module import FeatureModule
from visit_tl.features.saelens_config import read_config
from visit_tl.features.saelens_module import module_of
from visit_tl.features.saelens_object import (
    config_of,
    is_sae,
    require_same_answers,
    tensors_of,
)
from visit_tl.features.weight_files import Tensors, read_tensors, refuse_pickle
from visit_tl.files import home
from visit_tl.strict_json import parse_json

Source = Annotated[Any, Unchecked("open says which forms it takes")]
Device = Annotated[Any, Unchecked("torch says which devices it knows")]
Dtype = Annotated[Any, Unchecked("open says in which types it computes")]

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
SHIPPED: Final = Path(__file__).parent / "data"
_LARGEST_CONFIG: Final = 10_000_000


@checked
def open(  # noqa: A001
    source: Source,
    *,
    layer: Whole | None = None,
    hook: Name | None = None,
    hook_out: Name | None = None,
    model_name: Name | None = None,
    device: Device = "cpu",
    dtype: Dtype = torch.float32,
) -> FeatureModule:
    """Open an SAE or a transcoder.

    Args:
        source: A folder that SAELens saved (`cfg.json`, `sae_weights.safetensors`); a folder of
            transcoders of circuit-tracer (`config.yaml`, `layer_0.safetensors`, ...) or one file in
            it; a `sae_lens.SAE`; or the name of one that comes with the package.
        layer: Which layer of a folder of circuit-tracer; others say it themselves.
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
        InputError: a file is missing, broken, a pickle, or describes what is not known here; or
            this is neither a path nor an SAE.
    """
    if not any(dtype is one for one in (torch.float32, torch.float64)):
        raise InputError(
            f"features are computed in torch.float32 or torch.float64, got {short(dtype)}; in half "
            f"precision the parts would not sum to the whole"
        )
    place = _device(device)
    if isinstance(source, str | Path):
        module = _from_path(_found(source), layer, hook, hook_out, place, dtype)
    elif is_sae(source):
        module = _from_object(source, hook, hook_out, place, dtype)
    else:
        raise InputError(
            f"a feature module is opened from a folder, a file or a sae_lens.SAE, got "
            f"{short(source)}"
        )
    if layer is not None and layer != module.layer:
        raise InputError(f"{module} is of layer {module.layer}, and layer={layer} was asked for")
    return module if model_name is None else replace(module, model_name=model_name)


def _from_path(
    path: Path,
    layer: int | None,
    hook: str | None,
    hook_out: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> FeatureModule:
    folder = path if path.is_dir() else path.parent
    if (folder / CONFIG).is_file():
        described = read_config(read_json(folder / CONFIG), str(folder / CONFIG), hook, hook_out)
        weights = path if path.suffix == ".safetensors" else folder / WEIGHTS
        tensors = Tensors(read_tensors(weights), str(weights), device, dtype)
        return module_of(described, tensors, name=folder.resolve().name, path=weights)
    if (folder / circuit_tracer_files.CONFIG).is_file():
        return read_circuit_tracer(
            path, layer=layer, hook=hook, hook_out=hook_out, device=device, dtype=dtype
        )
    try:
        for file in sorted(folder.iterdir()):
            refuse_pickle(file)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}") from error
    raise InputError(
        f"{folder} has neither {CONFIG}, as SAELens writes it, nor {circuit_tracer_files.CONFIG}, "
        f"as circuit-tracer does; without it nothing says what the weights mean"
    )


def _from_object(
    sae: Any, hook: str | None, hook_out: str | None, device: torch.device, dtype: torch.dtype
) -> FeatureModule:
    about = f"this {type(sae).__name__}"
    config = read_config(config_of(sae), about, hook, hook_out)
    tensors = Tensors(tensors_of(sae), about, device, dtype)
    module = module_of(config, tensors, name=type(sae).__name__, path=None)
    require_same_answers(sae, module)
    return module


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is no JSON, too long for a configuration, or cannot be read.
    """
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise InputError(f"{path} has more than 10 MB, too many for a configuration")
        return parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error


def _found(source: str | Path) -> Path:
    """The file or folder; a name of those that come with the package is the last that is tried.

    Raises:
        InputError: there is none.
    """
    path = home(source)
    refuse_pickle(path)
    with suppress(ValueError, OSError):  # no file has such characters, or so long a name
        if path.exists():
            return path
    shipped = sorted(one.name for one in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if str(source) in shipped:
        return SHIPPED / str(source)
    raise InputError(
        f"there is no file or folder {str(source)[:300]!r}, and nothing is downloaded: a release "
        f"of SAELens is given as the SAE that its from_pretrained returns. The package comes with "
        f"{', '.join(shipped)}"
    )


def _device(given: Any) -> torch.device:
    try:
        place = torch.device(given)
        torch.ones(1, device=place).item()
    except Exception as error:  # torch raises a different one for each way in which it is none
        raise InputError(f"{short(given)} is no device to compute on: {error}") from error
    return place
