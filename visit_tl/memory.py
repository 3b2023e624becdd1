"""The peak of a process's memory while something runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import torch

_CLEAR: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")

_T = TypeVar("_T")


def peak_of(work: Callable[[], _T], device: torch.device) -> tuple[_T, int | None]:
    """Run something, and see how far memory rose above where it was.

    Args:
        work: What is run.
        device: Whose memory is watched: a GPU's, or the process's own.

    Returns:
        What it gave, and the bytes; None where the system does not tell (only Linux does).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        return result, torch.cuda.max_memory_allocated(device) - before
    try:
        # Linux starts counting the peak anew, as its documentation of /proc says.
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
