"""An SAE that the caller holds, read by what it offers: `cfg` and tensors by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.features.feature_module import FeatureModule

_PROBES: Final = 4


def is_sae(given: Any) -> bool:
    """Whether this is like a `sae_lens.SAE`: a module with `encode`, `decode` and tensors."""
    return all(callable(getattr(given, name, None)) for name in ("encode", "decode", "state_dict"))


def config_of(sae: Any) -> dict[str, Any]:
    """The configuration of an SAE, as cfg.json has it.

    Raises:
        InputError: it has none.
    """
    try:
        cfg = getattr(sae, "cfg", None)
        to_dict = getattr(cfg, "to_dict", None)
        if callable(to_dict):
            found = to_dict()
        elif is_dataclass(cfg) and not isinstance(cfg, type):
            found = asdict(cfg)
        else:
            found = dict(cfg) if isinstance(cfg, dict) else None
    except Exception as error:  # whatever a class of the caller's raises
        raise InputError(
            f"the configuration of this {type(sae).__name__} cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"this {type(sae).__name__} has no configuration, cfg, that can be read")
    return {str(key): value for key, value in found.items()}


def tensors_of(sae: Any) -> dict[str, Tensor]:
    """The tensors of an SAE, by name, as its files have them."""
    found = {name: t for name, t in sae.state_dict().items() if isinstance(t, Tensor)}
    return {name: tensor.detach() for name, tensor in found.items()}


def require_same_answers(sae: Any, module: FeatureModule) -> None:
    """Require that an SAE and what was opened from it do the same to a few random inputs.

    A class of the caller's own, a hook that is left standing or a weight that is no number would
    make a difference.

    Raises:
        InputError: they do not, or the SAE cannot be run.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_PROBES, module.d_in, generator=generator)
    by_head = bool(getattr(sae, "hook_z_reshaping_mode", module.flatten_heads))
    kind = f"this {type(sae).__name__}"
    own = module.dtype
    for tensor in tensors_of(sae).values():
        own = tensor.dtype if tensor.is_floating_point() else own
        x = x.to(tensor.device)
    half = own not in (torch.float32, torch.float64)
    try:
        with _left_as_it_was(sae), torch.no_grad():
            features = sae.encode(x[:, None] if by_head else x)
            written = sae.decode(features).reshape(_PROBES, module.d_out)
    except Exception as error:  # whatever a class of the caller's raises
        raise InputError(f"{kind} cannot be run on vectors of {module.d_in}: {error}") from error
    if not _same_features(features.detach(), module.encode(x), half):
        different = "encode"
    elif not _same(written.detach(), module.decode(features.detach().to(module.dtype), x), half):
        different = "decode"
    else:
        return
    raise InputError(
        f"{kind} gives another {different} than the {module.architecture} that its cfg says it "
        f"is; remove hooks from it, or save it with save_model(folder) and open that"
    )


def _same(theirs: Tensor, ours: Tensor, half: bool) -> bool:
    """Whether numbers are the same but for rounding; in half precision every step is rounded."""
    if theirs.shape != ours.shape:
        return False
    theirs, tolerance = theirs.to(ours), 5e-2 if half else 1e-4
    return bool((theirs - ours).norm() <= tolerance * theirs.norm().clamp(min=1e-6))


def _same_features(theirs: Tensor, ours: Tensor, half: bool) -> bool:
    """Whether features are the same but for rounding.

    In half precision, of features that are close to each other or to their threshold others may be
    chosen: per row one, and a tenth of those that are active.
    """
    if not half or theirs.shape != ours.shape:
        return _same(theirs, ours, half)
    both = (theirs != 0) & (ours != 0)
    either = (theirs != 0) ^ (ours != 0)
    allowed = len(theirs) + 0.1 * int((theirs != 0).sum())
    return int(either.sum()) <= 2 * allowed and _same(theirs[both], ours[both], half)


@contextmanager
def _left_as_it_was(sae: Any) -> Iterator[None]:
    """Put back what SAELens keeps on the object while it runs, such as the width of heads."""
    kept = dict(vars(sae))
    try:
        yield
    finally:
        vars(sae).clear()
        vars(sae).update(kept)
