"""Whether hooks show what is read from them, by the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.view import ModelView


def require_shapes(view: ModelView, read: Mapping[str, Tensor], hooks: Mapping[str, str]) -> None:
    """Require that each hook shows what its slot is: heads, key positions, the stream's width.

    Raises:
        ModelError: one does not; the message names it.
    """
    n, width = len(read["keys"]), read["query"].shape[-1]
    values = read["z"].shape[-1]
    wanted: dict[str, tuple[int | None, ...]] = {
        "query": (view.n_heads, width),
        "keys": (n, None, width),
        "values": (n, None, values),
        "pattern": (view.n_heads, n),
        "z": (view.n_heads, values),
    }
    wanted |= dict.fromkeys(
        ("resid_pre", "attn_in", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"),
        (view.d_model,),
    )
    for slot, sizes in wanted.items():
        if slot not in read:
            continue
        shape = read[slot].shape
        fits = len(shape) == len(sizes) and all(
            size in (None, own) for size, own in zip(sizes, shape, strict=True)
        )
        grouped = slot not in ("keys", "values") or view.n_heads % max(shape[1], 1) == 0
        if not (fits and grouped):
            said = ", ".join("K/V heads" if size is None else str(size) for size in sizes)
            raise ModelError(
                f"the hook {hooks[slot]} of {view.name} gives {slot} the shape {tuple(shape)}, "
                f"where ({said}) is needed; such a block cannot be taken apart into heads and "
                f"memories"
            )
