"""Which kernel reads: what the environment says, what a trial on this machine found, or the usual.

Only float32 on a CPU is tried. A readout that takes less than a few tenths of a second is done with
the usual kernel as long as nothing better is known, so that little work never waits for a trial.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Final

import torch

from visit_tl import kernel_store
from visit_tl.errors import InputError
from visit_tl.kernel import Kernel
from visit_tl.kernel_trial import trial
from visit_tl.machine import processor
from visit_tl.model.view import ModelView
from visit_tl.product import ways

SETTING: Final = "VISIT_TL_READOUT"
"""Name of the environment variable that sets the kernel, such as `torch:256x4096`."""
USUAL: Final = Kernel("torch", 256, 2048)
"""On a CPU, as long as nothing was tried."""
LARGE: Final = Kernel("torch", 2048, 16_384)
"""On other devices: few and large tiles, since each costs a wait for the device."""
WORTH: Final = 15e9
"""Numbers of W_U that are multiplied, over all vectors, from which on a trial pays: 0.3 s of them
at 100 billion operations a second."""
_NUMBERS: Final = 2**22
"""Numbers of an unembedding from which on it is that of a real model."""

_found: dict[str, Choice] = {}
_trying = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """A kernel, and why it is that one.

    Attributes:
        kernel: The kernel.
        reason: Who chose it, for a person to read.
    """

    kernel: Kernel
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel} ({self.reason})"


def kernel_for(
    view: ModelView, vectors: int | None = None, dtype: torch.dtype = torch.float32
) -> Choice:
    """The kernel for a readout.

    Args:
        view: The model that reads.
        vectors: How many vectors are read; None stands for as many as make a trial worth while.
        dtype: In what they are multiplied.

    Raises:
        InputError: the environment names a kernel that cannot be, or cannot be used here.
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
    """What a trial's result depends on: processor, threads and torch's release."""
    return {
        "processor": str(processor()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def forget() -> None:
    """Lose what is in memory, as the end of the process would; what is on disk stays."""
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
