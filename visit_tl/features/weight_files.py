"""Tensors from safetensors files, checked before they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from visit_tl.errors import InputError

_FLOATS: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHOWN: Final = 20
"""Names of tensors in a message."""
_PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in the types that it holds.

    Raises:
        InputError: there is no such file, it is no safetensors file, or is cut off.
    """
    refuse_pickle(path)
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, MemoryError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no whole safetensors file: {why}") from error


def refuse_pickle(path: Path) -> None:
    """Refuse files that can run code when they are loaded.

    Raises:
        InputError: the suffix is one of those that torch.save is used with.
    """
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when it is loaded, and is not opened; open it "
            f"with the package that it is from and save it again as safetensors, with SAELens: "
            f"SAE.save_model(folder)"
        )


class Tensors:
    """The tensors of one module, taken one by one, each with its shape checked.

    Args:
        found: The tensors, by name.
        source: Where they are from, for messages.
        device: Where they are wanted.
        dtype: The type in which they are wanted; half precision is widened, which loses nothing.
    """

    def __init__(
        self, found: Mapping[str, Tensor], source: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._found, self.source = dict(found), source
        self._device, self._dtype = device, dtype
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def take(self, name: str, *shape: int) -> Tensor:
        """One tensor.

        Args:
            name: Its name.
            shape: The shape that it must have.

        Raises:
            InputError: it is not there, has another shape, is no tensor of floating point numbers,
                is sparse or was not loaded, or holds a number that is not finite.
        """
        if name not in self._found:
            raise InputError(f"{self.source} has no {name}; it holds {_names(self._found)}")
        tensor = self._found[name]
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{name} of {self.source} has the shape {list(tensor.shape)}, expected "
                f"{list(shape)}"
            )
        if tensor.dtype not in _FLOATS:
            raise InputError(
                f"{name} of {self.source} is {tensor.dtype}; weights are float64, float32, "
                f"float16 or bfloat16"
            )
        if tensor.is_meta or tensor.layout is not torch.strided:
            why = "was not loaded (meta)" if tensor.is_meta else f"is {tensor.layout}"
            raise InputError(f"{name} of {self.source} {why}; weights are dense tensors")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} of {self.source} holds numbers that are not finite")
        taken = tensor.detach().to(self._device, self._dtype, copy=True).contiguous()
        if not bool(torch.isfinite(taken).all()):
            raise InputError(
                f"{name} of {self.source} holds numbers that are too large for {self._dtype}; "
                f"open it with dtype=torch.float64"
            )
        self._used.add(name)
        return taken

    def count(self, name: str) -> int:
        """A whole number that is kept as a tensor.

        Raises:
            InputError: it is none.
        """
        tensor = self._found[name]
        if tensor.numel() != 1 or tensor.is_floating_point() or tensor.is_complex():
            raise InputError(f"{name} of {self.source} is no whole number")
        self._used.add(name)
        return int(tensor)

    def width(self, name: str, axis: int, axes: int = 2) -> int:
        """The size of one axis of a tensor.

        Raises:
            InputError: it is not there, has another number of axes, or is empty.
        """
        if name not in self._found:
            raise InputError(f"{self.source} has no {name}; it holds {_names(self._found)}")
        shape = list(self._found[name].shape)
        if len(shape) != axes or 0 in shape:
            raise InputError(f"{name} of {self.source} has the shape {shape}")
        return shape[axis]

    def ignore(self, *names: str) -> None:
        """Tensors that are there and have no part in what the module computes."""
        self._used.update(names)

    def require_all_used(self) -> None:
        """Require that no tensor is left over, which would mean a formula not known here.

        Raises:
            InputError: some are.
        """
        if rest := sorted(set(self._found) - self._used):
            raise InputError(
                f"{self.source} holds {_names(rest)}, of which its architecture has no use; "
                f"what they do is not known here"
            )


def _names(found: Iterable[str]) -> str:
    """Names of tensors, the first of them and not at full length: files may hold any."""
    names = sorted(found)
    shown = ", ".join(name if len(name) <= 60 else f"{name[:57]}..." for name in names[:_SHOWN])
    rest = len(names) - _SHOWN
    return (shown or "nothing") + (f" and {rest} more" if rest > 0 else "")
