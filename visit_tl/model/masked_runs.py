"""Run the caller's model under the mask of a prompt's segments.

Where a mask can be put (`mask_places.py`), and whether the model then does what the mask says, is
tried once per model. A model that obeys none, or that sees less than all earlier tokens (a sliding
window), is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.mask_places import INNER, WAYS, placed
from visit_tl.model.same_logits import allowed_error, differ, error_of
from visit_tl.segments.masks import allowed
from visit_tl.segments.spans import Segments

_WINDOWS: Final = ("sliding_window", "window_size", "attention_window_size", "local_window_size")
"""Names of configurations for how far back attention reaches. A name only says what to try."""

_FOUND: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
_LENGTHS: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()
"""For each model with a window, the lengths of prompts that were found to fit into it."""

_TOKENS: Final = 6
# Of the largest logit. Measured on the small models of the tests: rounding moves a row by at most
# 1.5e-7, a token that is seen by 1.7e-2 or more.
_ROUNDING: Final = 1e-5
_SPANS: Final = ((0, 2), (2, 5))


@contextmanager
def masked(model: Any, segments: Segments | None, *, past: int = 0) -> Iterator[None]:
    """Put every run of a model inside under the mask of these segments; None leaves it as it is.

    Args:
        model: A HookedTransformer or TransformerBridge.
        segments: The segments; tokens past the last one are causal, whatever the run's length.
        past: How many positions come from a cache, before the tokens of the run.

    Raises:
        ModelError: the model obeys no such mask.
    """
    if segments is None:
        yield
        return
    with placed(model, segments, _way(model), past):
        yield


def require_masks(model: Any, segments: Segments | None, length: int) -> None:
    """Require that a model can run prompts of this length under the mask of segments.

    Raises:
        ModelError: it obeys no such mask, or sees less than all earlier tokens.
    """
    if segments is None:
        return
    way = _way(model, length)
    window = _window(model)
    if window is None or length <= window or length in _LENGTHS.get(model, ()):
        return
    tokens = torch.arange(length, device=_device(model))[None] % int(model.cfg.d_vocab)
    if (off := _causal_error(model, tokens, way)) is not None:
        raise ModelError(
            f"the attention of {_name(model)} reaches {window} tokens back, and this prompt has "
            f"{length}; the mask of segments would lift that limit (logits of the causal mask are "
            f"off by {off:.1e}), so give at most {window} tokens"
        )
    _LENGTHS.setdefault(model, set()).add(length)


# --- which way -----------------------------------------------------------------------------------


def _way(model: Any, length: int = _TOKENS) -> tuple[str, ...]:
    """The way that a model obeys.

    Args:
        model: The model.
        length: How many tokens the prompt has. Hooks that the caller left on the model may need so
            many, so it is the second length that is tried.

    Raises:
        ModelError: it obeys none.
    """
    if model not in _FOUND:
        _require_attention(model)
        way, tried = _tried(model, _TOKENS)
        if way is None and length > _TOKENS:
            way, tried = _tried(model, length)
        if way is None:
            raise ModelError(
                f"{_name(model)} ({type(model).__name__}) cannot run under the mask of segments "
                f"exactly; tried as {'; as '.join(tried)}"
            )
        _FOUND[model] = way
    return _FOUND[model]


def _require_attention(model: Any) -> None:
    """Require attention in every block: nothing else has a mask.

    Raises:
        ModelError: a block has none.
    """
    known = model.hook_dict
    bare = [i for i in range(len(model.blocks)) if f"blocks.{i}.attn.hook_pattern" not in known]
    if bare:
        raise ModelError(
            f"blocks.{bare[0]} of {_name(model)} has no attention, so no mask of segments can say "
            f"which tokens see each other there; run it without segments"
        )


def _tried(model: Any, n_tokens: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """The first way that works, and why those before it do not."""
    tried: list[str] = []
    for way in WAYS:
        try:
            reason = _refusal(model, way, n_tokens)
        except Exception as error:  # a model that takes no such mask may fail in any way
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if reason is None:
            return way, tried
        tried.append(f"{' and '.join(way)}: {reason}")
    return None, tried


def _refusal(model: Any, way: tuple[str, ...], n_tokens: int) -> str | None:
    """Why a way of passing the mask does not do what the mask says; None if it does."""
    n = min(n_tokens, int(model.cfg.n_ctx), _window(model) or n_tokens)
    d_vocab = int(model.cfg.d_vocab)
    tokens = torch.arange(n, device=_device(model))[None] % d_vocab
    if (off := _causal_error(model, tokens, way)) is not None:
        return f"a causal mask gives other logits than none, by {off:.1e} of the largest"
    segments = Segments(tuple((a, min(b, n)) for a, b in _SPANS if a < n))
    mask = allowed(segments.spans, n).to(tokens.device)

    def run(ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        patterns: list[Tensor] = []
        hooks = [
            (f"blocks.{i}.attn.hook_pattern", _into(patterns)) for i in range(len(model.blocks))
        ]
        with torch.no_grad(), placed(model, segments, way, 0):
            return model.run_with_hooks(ids, fwd_hooks=hooks)[0].float(), patterns

    def changed(position: int) -> Tensor:
        other = tokens.clone()
        other[0, position] = (other[0, position] + max(1, d_vocab // 2)) % d_vocab
        return other

    logits, patterns = run(tokens)
    for layer, pattern in enumerate(patterns):
        if bool((pattern[0][:, ~mask] != 0).any()):
            return f"blocks.{layer} attends to tokens that the mask hides"
        upper = mask.triu(1)
        if bool(upper.any()) and not bool((pattern[0][:, upper] != 0).any()):
            return f"blocks.{layer} does not attend to later tokens of a segment"
    with torch.no_grad():
        plain = [model.run_with_hooks(ids)[0] for ids in (tokens, changed(1))]
    # The experts of a mixture multiply the rows of all tokens that chose them in one product, so
    # the last bits of a row depend on tokens that it does not see.
    rounding = _rounding(plain[0].dtype) * float(logits.abs().max())
    for position, (start, _) in ((1, (0, 2)), (min(4, n - 1), (2, 5))):
        if start >= n:
            continue
        apart = (run(changed(position))[0] - logits).abs().amax(-1)
        if not bool((apart[:start] <= rounding).all()):
            return f"changing the token {position} moves a token that must not see it"
        # Whether a token can reach another at all is seen without a mask.
        if bool((plain[0] != plain[1])[2:].any()) and not bool(apart[start]):
            return f"changing the token {position} does not move the first of its segment"
    return None


def _rounding(dtype: torch.dtype) -> float:
    """How far the logits of a row may move with tokens that it does not see."""
    half = dtype in (torch.float16, torch.bfloat16)
    return allowed_error(dtype) if half else _ROUNDING


def _causal_error(model: Any, tokens: Tensor, way: tuple[str, ...]) -> float | None:
    """How far the logits of a causal mask are from those of none; None if they are the same."""
    with torch.no_grad():
        plain = model.run_with_hooks(tokens)
        with placed(model, Segments(()), way, 0):
            under = model.run_with_hooks(tokens)
    return error_of(under, plain) if differ(under, plain) else None


def _into(patterns: list[Tensor]) -> Callable[[Tensor, Any], None]:
    def keep(tensor: Tensor, hook: Any) -> None:
        patterns.append(tensor.detach())

    return keep


def _window(model: Any) -> int | None:
    """The shortest reach of attention that a configuration names; None if it names none."""
    configs = [model.cfg, *(getattr(getattr(model, n, None), "config", None) for n in INNER)]
    values = [getattr(config, name, None) for config in configs for name in _WINDOWS]
    return min((v for v in values if type(v) is int and v > 0), default=None)


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device


def _name(model: Any) -> str:
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)
