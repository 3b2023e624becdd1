"""An SAE that the caller holds, read by what it offers: `cfg` and tensors by name."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from torch import Tensor

from visit_tl.errors import InputError


def is_sae(given: Any) -> bool:
    """Whether this is like a `sae_lens.SAE`: a module with a configuration, `encode`, `decode`."""
    return all(callable(getattr(given, name, None)) for name in ("encode", "decode", "state_dict"))


def config_of(sae: Any) -> dict[str, Any]:
    """The configuration of an SAE, as cfg.json has it.

    Raises:
        InputError: it has none.
    """
    cfg = getattr(sae, "cfg", None)
    to_dict = getattr(cfg, "to_dict", None)
    if callable(to_dict):
        found = to_dict()
    elif is_dataclass(cfg) and not isinstance(cfg, type):
        found = asdict(cfg)
    else:
        found = dict(cfg) if isinstance(cfg, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"this {type(sae).__name__} has no configuration, cfg, that can be read")
    found = {str(key): value for key, value in found.items()}
    if callable(found.get("architecture")):
        found["architecture"] = found["architecture"]()
    return found


def tensors_of(sae: Any) -> dict[str, Tensor]:
    """The tensors of an SAE, by name."""
    return {name: t for name, t in sae.state_dict().items() if isinstance(t, Tensor)}
