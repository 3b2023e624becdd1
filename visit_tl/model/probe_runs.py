"""Token sequences of one length in one pass; what their heads do is looked at on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.hooks import hook_names
from visit_tl.model.view import ModelView

_TOKENS_AT_ONCE = 1024
"""Most tokens of a pass; the logits of all of them are in memory at once."""

See = Callable[[int, Tensor], None]
"""A function of the layer and of the tensor of that layer, float32, on the model's device."""


def parts(tokens: Int[Tensor, "sequence pos"]) -> Iterator[Int[Tensor, "part pos"]]:
    """The sequences in as few passes as memory allows."""
    yield from tokens.split(max(1, _TOKENS_AT_ONCE // tokens.shape[1]))


def run_probes(
    view: ModelView,
    tokens: Int[Tensor, "sequence pos"],
    *,
    patterns: See | None = None,
    values: See | None = None,
) -> Float[Tensor, "sequence pos d_vocab"]:
    """Run sequences of one length together and return their logits.

    Args:
        view: The model.
        tokens: The sequences.
        patterns: Called with the attention of each block, `[sequence, head, query, key]`.
        values: Called with the values of each block, with biases, `[sequence, pos, kv_head,
            d_head]`.

    Raises:
        ModelError: a hook is missing or did not fire.
    """
    view.require_attention("measuring heads on sequences")
    fired: set[str] = set()
    hooks: list[tuple[str, Any]] = []
    for layer in range(view.n_layers):
        names = hook_names(view, layer)
        for slot, see in (("pattern", patterns), ("values", values)):
            if see is not None:
                by_head = f"latent_{slot}" in names
                name = names[f"latent_{slot}" if by_head else slot]
                hooks.append((name, _seer(see, layer, name, fired, by_head=by_head)))
    logits = view.run(tokens.to(view.W_U.device), hooks)
    if silent := [name for name, _ in hooks if name not in fired]:
        raise ModelError(
            f"the hook {silent[0]} of {view.name} did not fire in this forward pass, so its heads "
            f"cannot be measured"
        )
    return logits


def _seer(
    see: See, layer: int, name: str, fired: set[str], *, by_head: bool = False
) -> Callable[[Tensor, Any], None]:
    def look(tensor: Tensor, hook: Any) -> None:
        fired.add(name)  # the hook's own name may be another one
        see(layer, (tensor.transpose(1, 2) if by_head else tensor).detach().float())

    return look
