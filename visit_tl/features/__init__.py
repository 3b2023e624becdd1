"""SAEs and transcoders: features of a model's activations, opened from files.

What a feature module computes, and the files and objects that it comes from. This package imports
neither SAELens nor circuit-tracer, and loads nothing by pickle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.features.feature_module import FeatureModule, FeatureRun
    from visit_tl.features.open_features import open  # noqa: A004

_MODULES = {
    "FeatureModule": "feature_module",
    "FeatureRun": "feature_module",
    "open": "open_features",
}

__all__ = ["FeatureModule", "FeatureRun", "open"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'visit_tl.features' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.features.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
