"""Choice of the kernel for a readout.

The kernel is the one set in the environment, else the fastest in a trial on this machine, else the
default. Only float32 on a CPU is tried. While no trial result exists, a readout that takes less
than a few tenths of a second uses the default kernel, so small work never waits for a trial.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Final

import torch

from visit_tl.errors import InputError
from visit_tl.lens import kernel_store
from visit_tl.lens.kernel import Kernel
from visit_tl.lens.kernel_trial import trial
from visit_tl.lens.machine import processor
from visit_tl.lens.product import ways
from visit_tl.model.view import ModelView

SETTING: Final = "VISIT_TL_READOUT"
"""Name of the environment variable that sets the kernel, such as `torch:256x4096`."""
USUAL: Final = Kernel("torch", 256, 2048)
"""Default on a CPU, until a trial was made."""
LARGE: Final = Kernel("torch", 2048, 16_384)
"""Default on other devices: few and large tiles, since each tile costs a wait for the device."""
WORTH: Final = 15e9
"""Least work for which a trial pays: vectors times entries of W_U. It takes 0.3 s at 100 billion
operations a second."""
_NUMBERS: Final = 2**22
"""Least entries of W_U for which a trial is made; only toy models have fewer."""

_found: dict[str, Choice] = {}
_trying = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """A kernel, and why it was chosen.

    Attributes:
        kernel: The kernel.
        reason: Why it was chosen, as text for the user.
    """

    kernel: Kernel
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel} ({self.reason})"


def kernel_for(
    view: ModelView, vectors: int | None = None, dtype: torch.dtype = torch.float32
) -> Choice:
    """Choose the kernel for a readout.

    Args:
        view: The model whose unembedding is used.
        vectors: How many vectors are read; None means enough to make a trial worthwhile.
        dtype: The dtype of the product.

    Raises:
        InputError: the kernel set in the environment is malformed, or cannot be used here.
    """
    device = view.W_U.device
    if text := os.environ.get(SETTING):
        return _set(text, device, dtype)
    if device.type != "cpu":
        return Choice(LARGE, f"the usual on {device.type}")
    if dtype != torch.float32:
        return Choice(USUAL, f"the usual for {str(dtype).removeprefix('torch.')}")
    facts = machine()
    place = repr(sorted(facts.items()))
    with _trying:
        kept = None if place in _found else kernel_store.load(facts)
        if kept is not None and kept.way in ways(device, dtype):
            _found[place] = Choice(kept, "by an earlier trial on this machine")
        if place in _found:
            return _found[place]
        large = view.W_U.numel() >= _NUMBERS
        if not large or (vectors is not None and vectors * view.W_U.numel() < WORTH):
            return Choice(USUAL, "the usual; nothing was tried yet for so little work")
        tried = trial(view, USUAL, torch.get_num_threads())
        if tried.complete:
            kernel_store.save(facts, tried.kernel)
            _found[place] = Choice(tried.kernel, "by a trial on this machine")
        else:
            _found[place] = Choice(USUAL, "the usual; the machine was too busy for a trial")
        return _found[place]


def machine() -> dict[str, object]:
    """What the result of a trial depends on: processor, number of threads, release of torch."""
    return {
        "processor": str(processor()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def forget() -> None:
    """Clear the choices kept in memory, as at the end of the process; files on disk stay."""
    with _trying:
        _found.clear()


def _set(text: str, device: torch.device, dtype: torch.dtype) -> Choice:
    try:
        kernel = Kernel.parse(text)
    except InputError as error:
        raise InputError(f"{SETTING}: {error}") from None
    if kernel.way not in ways(device, dtype):
        possible = ", ".join(ways(device, dtype))
        raise InputError(
            f"{SETTING} is {text!r}, but {str(dtype).removeprefix('torch.')} on {device.type} can "
            f"be multiplied here by {possible} only"
        )
    return Choice(kernel, f"set by {SETTING}")
