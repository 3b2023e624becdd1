"""Hooks that the caller left on the model ("standing" hooks), and what they change in a run.

They fire in every run, so all measurements are of the model with them. Whether a hook changes
anything is found by comparing the tensor before and after it: a hook that only reads, or that
writes back the same numbers, does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

Standing = Mapping[str, tuple[int, ...]]
"""Hooks that changed something, by name, each with torch's ids of its functions. Torch never uses
an id twice."""


_LIBRARIES: Final = ("transformer_lens", "transformers", "accelerate", "torch", "peft")
"""Libraries whose hook functions on a module belong to the model, not to the caller."""


@dataclass
class Changes:
    """What the caller's standing hooks changed in one run.

    Attributes:
        standing: The hooks, by their names in HookedTransformer.
        names: The same hooks under all of their names.
    """

    standing: dict[str, tuple[int, ...]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()


@contextmanager
def watched(model: Any) -> Iterator[Changes]:
    """Find which of the hooks on the model change something in the runs inside.

    Hooks that are added inside, such as those of this package, are not examined.
    """
    changes = Changes()
    points = {name: module for name, module in _hooked(model) if _is_point(module)}
    aliases = _aliases(model) if points else {}
    handles: list[Any] = []
    try:
        for name, point in points.items():
            every = aliases.get(id(point), [name])
            before, after = _watchers(point, every, _functions(point), changes)
            handles.append(point.register_forward_pre_hook(before, prepend=True))
            handles.append(point.register_forward_hook(after))
        yield changes
    finally:
        for handle in handles:
            handle.remove()


def changed_now(model: Any, token_ids: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The standing hooks that change a run of these tokens; without any, nothing is run."""
    if not any(_is_point(module) for _, module in _hooked(model)):
        return {}
    device = next(model.parameters()).device
    with watched(model) as changes, torch.no_grad():
        model(torch.tensor([token_ids], device=device))
    return changes.standing


def on_modules(modules: Iterable[nn.Module], *, ours: bool = True) -> bool:
    """Whether there are hook functions of the caller, or of this package, on any of these modules.

    Args:
        modules: The modules.
        ours: Whether those of this package count, which are there only inside of its calls.
    """
    return any(
        (module._forward_hooks or module._forward_pre_hooks)
        and _functions(module)
        and (ours or _of_caller(module))
        for module in modules
    )


def _of_caller(module: nn.Module) -> bool:
    # TransformerLens wraps what it is given, and takes its own off when a run fails.
    hooks = getattr(module, "fwd_hooks", ()) if _is_point(module) else ()
    if any(not getattr(hook, "is_permanent", False) for hook in hooks):
        return True
    every = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return not all(_is_own(function) or _package(function) == "visit_tl" for function in every)


def left_on(model: Any) -> str:
    """The end of an error message: the caller's hooks on a model and how to remove them.

    It is empty if there are none. Torch hooks on modules, which TransformerLens does not list, are
    included.
    """
    points, modules, permanent = [], [], False
    aliases: dict[int, list[str]] | None = None
    for name, module in _hooked(model):
        if _is_point(module):
            aliases = _aliases(model) if aliases is None else aliases
            points.append(aliases.get(id(module), [name])[0])
            permanent |= any(getattr(h, "is_permanent", False) for h in module.fwd_hooks)
        else:
            modules.append(name.replace("._original_component", "") or "the model itself")
    parts = []
    if points:
        option = "including_permanent=True" if permanent else ""
        parts.append(f"hooks at {_list(points)} (model.reset_hooks({option}) takes them off)")
    if modules:
        parts.append(
            f"torch's own hooks on {_list(modules)} (handle.remove() takes them off; no hook of "
            f"TransformerLens shows what they change)"
        )
    return f"; on this model there are {', and '.join(parts)}" if parts else ""


def _list(names: list[str]) -> str:
    more = len(names) - 6
    return ", ".join(names[:6]) + (f" and {more} more" if more > 0 else "")


def _hooked(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules with hook functions of the caller, by name."""
    for name, module in model.named_modules():
        if (module._forward_hooks or module._forward_pre_hooks) and _functions(module):
            yield name, module


def _is_point(module: nn.Module) -> bool:
    return hasattr(module, "fwd_hooks") and hasattr(module, "add_hook")


def _functions(module: nn.Module) -> tuple[int, ...]:
    """The ids of the caller's functions that torch calls before and after a module.

    TransformerLens adds the caller's functions only to hook points. On other modules, libraries
    have hooks of their own from the first run on: a bridge reads the tensors between sub-blocks,
    transformers returns attention. These are left out.
    """
    every = (*module._forward_pre_hooks.items(), *module._forward_hooks.items())
    return tuple(i for i, function in every if _is_point(module) or not _is_own(function))


def _is_own(function: Any) -> bool:
    return _package(function) in _LIBRARIES


def _package(function: Any) -> str:
    inner = getattr(function, "func", function)  # of functools.partial
    return str(getattr(inner, "__module__", "")).split(".")[0]


def _aliases(model: Any) -> dict[int, list[str]]:
    """All names of each hook, the name in HookedTransformer first.

    A bridge names most hooks `hook_in` or `hook_out` of a module, and has the names of
    HookedTransformer as aliases.
    """
    names: dict[int, list[str]] = {}
    for name, point in model.hook_dict.items():
        names.setdefault(id(point), []).append(name)
    return {point: sorted(every, key=_rank) for point, every in names.items()}


def _rank(name: str) -> tuple[bool, int]:
    return name.rsplit(".", 1)[-1] in ("hook_in", "hook_out"), len(name)


def _watchers(
    point: nn.Module, names: list[str], functions: tuple[int, ...], changes: Changes
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hook functions to run before and after the caller's; neither changes anything."""
    shown: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        # A copy, since a function may write into its argument.
        shown[:] = [arg.detach().clone() for arg in args[:1] if isinstance(arg, Tensor)]

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if shown and isinstance(output, Tensor) and not _same(shown.pop(), output.detach()):
            changes.standing[names[0]] = functions
            changes.names |= frozenset(names)

    return before, after


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
