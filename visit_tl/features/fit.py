"""Whether a feature module belongs to a model: hooks, widths, the model's name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.features.feature_module import FeatureModule


def misfits(module: FeatureModule, view: Any) -> list[str]:
    """Why a module does not belong to a model; an empty list if it does."""
    found: list[str] = []
    if module.layer >= view.n_layers:
        found.append(
            f"it reads {module.hook}, and the blocks of the model are 0..{view.n_layers - 1}"
        )
    elif absent := [hook for hook in {module.hook: 0, module.hook_out: 0} if _absent(hook, view)]:
        found.append(f"the model has no hook {' and no hook '.join(absent)}")
    if module.head is not None:
        found.append(f"it reads head {module.head} of {module.hook} alone, not all heads")
    for hook, width, verb in (
        (module.hook, module.d_in, "reads"),
        (module.hook_out, module.d_out, "writes"),
    ):
        expected = hook_width(hook, view, module.head)
        if expected is not None and width != expected:
            found.append(f"it {verb} {width} numbers at {hook}, where the model has {expected}")
    if module.model_name and not same_model(module.model_name, view.name):
        found.append(
            f"it was made for {module.model_name!r}; if this is the same model under another name, "
            f"open it with model_name={view.name!r}"
        )
    return found


def hook_width(hook: str, view: Any, head: int | None = None) -> int | None:
    """How many numbers a hook has at one position; None if the hook is not known here."""
    last = hook.rpartition("hook_")[2]
    if last == "z":
        block = re.match(r"blocks\.([0-9]{1,9})\.", hook)
        layer = view.n_layers if block is None else int(block[1])
        if layer >= view.n_layers:
            return None
        # Not n_heads * d_head, where values are as wide as they like (latent attention).
        width = view.z_width(layer)
        return width // view.n_heads if head is not None else width
    if hook.endswith(("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "mlp.hook_mid")):
        return view.d_mlp
    if last in _D_MODEL:
        return view.d_model
    return None


_D_MODEL = (
    "embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "attn_in", "mlp_out",
    "normalized", "in", "out",
)  # fmt: skip


def _absent(hook: str, view: Any) -> bool:
    # These name the input and output of a layer, which a view knows also where no hook fires.
    named = hook.endswith(("mlp.hook_in", "mlp.hook_out", "attn.hook_in", "attn.hook_out"))
    return not named and not view.has_hook(hook)


def same_model(one: str, other: str) -> bool:
    """Whether two names mean the same model: owners, letter case and `gpt2-small` aside."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    plain = name.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
    return {"gpt2-small": "gpt2"}.get(plain, plain)
