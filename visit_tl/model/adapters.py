"""Adapters (LoRA and similar) on a model's linear layers, and the effective weights of the layers.

TransformerLens shows only the weight of the layer inside an adapter, and none of a quantised layer.
This module reads a block as TransformerLens would show it if its layers had their effective
weights, adapters included. The model itself is not changed.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from visit_tl.errors import ModelError
from visit_tl.model.effective import (
    MERGED,
    Linear,
    NotReadableError,
    adapter_names,
    owner,
    read_linear,
    twin_of,
)
from visit_tl.model.quantised import (
    AGREE,
    AGREE_FULL,
    PLAIN,
    quantised_modules,
    read_quantised,
    skeleton,
    width_of,
)
from visit_tl.model.standing_hooks import left_on

MERGE: Final = (
    "merge the adapter into the weights before TransformerLens opens the model: pass the result of "
    "merge_and_unload() of the peft model as hf_model"
)
# peft's names: the configuration of the active adapter, and whether it adds to the prompt.
_SETTINGS: Final = "active_peft_config"
_IN_PROMPT: Final = "is_prompt_learning"
_KEPT_BYTES: Final = 256 * 2**20
"""Bytes of effective weights cached per opened model; blocks are read one after the other."""


def adapted_modules(modules: Sequence[tuple[str, nn.Module]]) -> dict[nn.Module, str]:
    """The modules that wrap a linear layer and show its weight, with their names.

    Such a module has submodules, and its two-dimensional `weight` is a parameter of one of them.
    Modules of TransformerLens look the same, but they wrap the modules of the model; these are left
    out.
    """
    found: dict[nn.Module, str] = {}
    for name, module in modules:
        if not module._modules or "_original_component" in module._modules:
            continue
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and "weight" not in module._parameters:
            inside = any(name.startswith(f"{outer}.") for outer in found.values())
            if not inside and owner(module) not in (None, module):
                found[module] = name
    return found


def active_adapters(model: Any) -> tuple[str, ...]:
    """The names of the adapters that act in the model now, merged or not, sorted."""
    return _active(model.modules())


def _active(modules: Iterable[nn.Module]) -> tuple[str, ...]:
    return tuple(sorted({name for module in modules for name in adapter_names(module)}))


class Adapters:
    """The adapters of an opened model.

    Args:
        model: The model.
        name: Its name.
        modules: The result of `model.named_modules()`.

    Attributes:
        names: The adapters that act in the model, merged or not, sorted.

    Raises:
        ModelError: an adapter changes the prompt instead of the weights.
    """

    def __init__(self, model: Any, name: str, modules: Sequence[tuple[str, nn.Module]]) -> None:
        settings = getattr(getattr(model, "original_model", None), _SETTINGS, None)
        if getattr(settings, _IN_PROMPT, False):
            raise ModelError(
                f"{name} has an adapter ({type(settings).__name__}) that puts vectors before the "
                f"prompt, or before its keys and values, that belong to no token; "
                f"merge_and_unload() cannot merge it, so only the model without it can be opened"
            )
        self._model, self._name = model, name
        self._quantised = quantised_modules(modules)
        self._found = self._quantised | adapted_modules(modules)
        # Of what is computed where nothing is quantised.
        self.dtype: torch.dtype = next(
            (p.dtype for p in model.parameters() if p.dtype in PLAIN), torch.float32
        )
        # Adapters of layers without such a weight, such as norms, are included.
        self.names: tuple[str, ...] = _active(module for _, module in modules)
        self._known: OrderedDict[nn.Module, Linear] = OrderedDict()
        self._seen: dict[nn.Module, tuple[Tensor, Tensor] | None] = {}

    @property
    def quantised(self) -> str:
        """How many linear layers are quantised, and their classes; empty if none is."""
        if not self._quantised:
            return ""
        kinds = ", ".join(sorted({type(module).__name__ for module in self._quantised}))
        n = len(self._quantised)
        return f"{n} linear layer{'' if n == 1 else 's'} ({kinds}), read by what they apply"

    @property
    def on_layers(self) -> bool:
        """Whether linear layers are wrapped in adapters, active or not."""
        return bool(self._found)

    def shown(self, module: Any, name: str, else_of: Any = None) -> Any:
        """A weight or bias of a part of the model, with the effect of its adapters.

        Args:
            module: A part of the model, such as the attention of a block.
            name: TransformerLens's name of a weight or bias, such as `W_Q`.
            else_of: The object to read the name from if the module contains no adapter; None is the
                module itself.

        Returns:
            The weight or bias; None if there is none.

        Raises:
            ModelError: a layer is not linear in its input, or its output in a run does not match
                its weights.
        """
        if not self.inside(module):
            return _got(module if else_of is None else else_of, name)
        return _named(self._copied(module, self._plain), name)

    def beneath(self, module: Any, name: str) -> Any:
        """A weight of a part of the model as it would be shown if its adapters were not there.

        It is a view of the parameter of the layer inside the adapter, wherever TransformerLens
        shows weights as views.
        """
        if not self.inside(module):
            return _got(module, name)
        return _named(self._copied(module, self._beneath), name)

    def _plain(self, module: nn.Module) -> nn.Module:
        """A layer that shows what a module applies in all."""
        inner = skeleton(module) if module in self._quantised else owner(module)
        return _layer(inner, lambda: self._linear(module))

    def _beneath(self, module: nn.Module) -> nn.Module | None:
        if module in self._quantised:
            raise ModelError(
                f"{_clean(self._found[module])} of {self._name} is quantised "
                f"({type(module).__name__}): its weight takes no gradient and cannot be changed; "
                f"load the model without quantisation for this"
            )
        return owner(module)

    def inside(self, module: Any) -> bool:
        """Whether an adapter or a quantised layer is in a part of the model."""
        return bool(self._found) and any(part in self._found for part in module.modules())

    def embeddings(
        self, module: Any, ids: Int[Tensor, " token"]
    ) -> Float[Tensor, "token d_model"] | None:
        """The embeddings of tokens, from an embedding with an adapter; None without an adapter."""
        inside = next((part for part in module.modules() if part in self._found), None)
        if inside is None:
            return None
        with torch.no_grad():
            return twin_of(inside, None)(ids[None])[0]

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Record inputs and outputs of adapted layers in a run inside, to check the weights.

        Raises:
            ModelError: a layer was not called, so the model computes without its adapter.
        """
        if not self._found:
            yield
            return
        self._seen.clear()
        handles = [module.register_forward_hook(_note(self._seen)) for module in self._found]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._require_called()

    def _require_called(self) -> None:
        for module, name in self._found.items():
            if module in self._seen or not adapter_names(module):
                continue
            # An adapter merged before the model was opened may be in the weight that the model
            # uses; one merged later is not.
            if getattr(module, MERGED, None) or _changes(module):
                raise ModelError(
                    f"the adapter {', '.join(adapter_names(module))} on {_clean(name)} takes no "
                    f"part in what {self._name} computes: TransformerLens took the weight without "
                    f"it when the model was opened, as it does with matrices that hold queries, "
                    f"keys and values in one; {MERGE}"
                )

    def _linear(self, module: nn.Module) -> Linear:
        """The map of one layer; read again if the layer's last run disagrees with the cache."""
        known = self._known.pop(module, None)
        if known is None or self._disagreement(module, known) is not None:
            known = self._read(module)
        self._known[module] = known
        held = sum(linear.nbytes for linear in self._known.values())
        while held > _KEPT_BYTES and len(self._known) > 1:
            held -= self._known.popitem(last=False)[1].nbytes
        return known

    def _read(self, module: nn.Module) -> Linear:
        where = f"{_clean(self._found[module])} of {self._name} ({type(module).__name__})"
        if module in self._quantised:
            return self._read_quantised(module, where)
        try:
            linear = read_linear(module)
        except NotReadableError as error:
            raise ModelError(
                f"the weight of {where} cannot be read with its adapter: {error}; {MERGE}"
            ) from error
        if (off := self._disagreement(module, linear)) is not None:
            raise ModelError(
                f"the output of {where} in this run differs from that of its weight and its "
                f"adapter ({', '.join(adapter_names(module)) or 'none active'}) by {off:.1e}; "
                f"{MERGE}{left_on(self._model)}"
            )
        return linear

    def _read_quantised(self, module: nn.Module, where: str) -> Linear:
        seen = self._seen.get(module)
        rows = torch.zeros(1, width_of(module), dtype=self.dtype) if seen is None else seen[0]
        try:
            linear = read_quantised(module, rows.dtype, rows.shape[-1])
        except NotReadableError as error:
            raise ModelError(
                f"{where} is quantised, and the weight that it applies cannot be read: {error}; "
                f"load the model without quantisation, or as weights only (4 bits, "
                f"bnb_4bit_compute_dtype as the model's dtype)"
            ) from error
        if (off := self._disagreement(module, linear)) is not None:
            raise ModelError(
                f"the output of {where} in this run differs from that of the weight that it "
                f"applies to rows of an identity matrix by {off:.1e}; load the model without "
                f"quantisation{left_on(self._model)}"
            )
        return linear

    def _disagreement(self, module: nn.Module, linear: Linear) -> float | None:
        """Relative difference of a layer's output in a run and a map's; None if only rounding."""
        seen = self._seen.get(module)
        if seen is None:
            return None
        rows, out = seen
        found, wanted = linear(rows.float()), out.float()
        off = float((found - wanted).norm() / wanted.norm()) if wanted.any() else 0.0
        return None if off <= AGREE.get(out.dtype, AGREE_FULL) else off

    def _copied(
        self, module: nn.Module, plain: Callable[[nn.Module], nn.Module | None]
    ) -> nn.Module:
        """A shallow copy for reading, with adapted layers replaced by plain ones."""
        if module in self._found:
            made = plain(module)
            assert made is not None
            return made
        # A module of TransformerLens is read through its own submodules, not through the module
        # that it wraps.
        parts = {
            name: self._copied(part, plain)
            if part is not None and (name != "_original_component" or part in self._found)
            else part
            for name, part in module._modules.items()
        }
        if all(part is module._modules[name] for name, part in parts.items()):
            return module
        made = copy.copy(module)
        made.__dict__["_modules"] = parts
        return made


def _layer(inner: nn.Module | None, linear: Callable[[], Linear]) -> nn.Module:
    """A layer like the one inside an adapter, whose weight and bias are computed on access.

    Its class has the same name and base, since TransformerLens tells the axes of a weight from the
    class.
    """
    made = copy.copy(inner)
    assert made is not None
    for kept in ("_parameters", "_buffers"):
        own = made.__dict__[kept].items()
        made.__dict__[kept] = {n: t for n, t in own if n not in ("weight", "bias")}
    shown = {
        "weight": property(lambda self: linear().weight),
        "bias": property(lambda self: linear().bias),
    }
    kind: Any = type(type(inner).__name__, (type(inner),), shown)
    made.__class__ = kind
    return made


def _named(module: Any, name: str) -> Any:
    # TransformerLens stores the original of some weights under this name; the path of the alias
    # leads to the current one.
    path = (getattr(module, "property_aliases", None) or {}).get(name)
    if path is not None and name in module.__dict__:
        return _at(module, path)
    return _got(module, name)


def _got(module: Any, name: str) -> Any:
    """A weight by name; None if there is none.

    Raises:
        ModelError: TransformerLens cannot show it, as with quantised weights, or with blocks whose
            heads are not those of the configuration.
    """
    try:
        return getattr(module, name, None)
    except ModelError:  # of a layer inside, which says more
        raise
    except Exception as error:  # its errors are of many kinds
        kind = "" if isinstance(error, NotImplementedError) else f"{type(error).__name__}: "
        raise ModelError(f"{name} cannot be read: {kind}{error}") from error


def _at(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _changes(module: nn.Module) -> bool:
    """Whether an adapter changes the weight that its module shows."""
    try:
        linear = read_linear(module)
    except NotReadableError:
        return True
    inner = owner(module)
    bias = getattr(inner, "bias", None)
    plain = torch.zeros(()) if bias is None else bias.detach().float()
    added = torch.zeros(()) if linear.bias is None else linear.bias
    weight = getattr(inner, "weight").detach().float()  # noqa: B009
    return not (torch.equal(linear.weight, weight) and bool((added == plain).all()))


def _note(
    seen: dict[nn.Module, tuple[Tensor, Tensor] | None],
) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    """A hook function that copies the first and last rows of a module's input and output."""

    def note(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        seen[module] = None
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            x = args[0]
            if x.is_floating_point() and x.ndim == out.ndim and x.shape[:-1] == out.shape[:-1]:
                rows, given = x.flatten(0, -2), out.flatten(0, -2)
                seen[module] = (_ends(rows), _ends(given))

    return note


def _ends(rows: Tensor) -> Tensor:
    return rows[[0, -1]].detach().clone()


def _clean(name: str) -> str:
    return name.replace("._original_component", "")
