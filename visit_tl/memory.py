"""Measure the peak memory while a function runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import torch

_CLEAR: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")

_T = TypeVar("_T")


def peak_of(work: Callable[[], _T], device: torch.device) -> tuple[_T, int | None]:
    """Run a function and measure how far memory use rose above its value at the start.

    Args:
        work: The function to run.
        device: The device whose memory is measured: a GPU, or the CPU for the process's memory.

    Returns:
        The result of `work`, and the rise in bytes; for the CPU, None on systems other than Linux,
        which do not report it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        return result, torch.cuda.max_memory_allocated(device) - before
    try:
        # Writing 5 makes Linux reset the peak (VmHWM), as its documentation of /proc says.
        _CLEAR.write_text("5")
        start = _kilobytes("VmRSS")
    except (OSError, ValueError):
        return work(), None
    result = work()
    return result, max(0, _kilobytes("VmHWM") - start) * 1024


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"{_STATUS} has no {name}")
