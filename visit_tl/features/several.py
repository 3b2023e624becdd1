"""One or several feature modules, from whatever a caller gives."""

from __future__ import annotations

from typing import Any

from visit_tl.errors import InputError
from visit_tl.features.feature_module import FeatureModule


def modules_of(given: Any) -> tuple[FeatureModule, ...]:
    """Open one or several SAEs or transcoders.

    Args:
        given: A FeatureModule, or what `visit_tl.features.open` takes; or a list of them.

    Raises:
        InputError: one is neither, or there are none.
        FileError: a file cannot be read.
    """
    from visit_tl.features.open_features import open as open_one

    many = given if isinstance(given, list | tuple) else [given]
    if not many:
        raise InputError("saes is an empty list; pass one SAE or several, or leave it out")
    return tuple(one if isinstance(one, FeatureModule) else open_one(one) for one in many)
