"""The processor of this machine: its name, and the instruction sets that matter for products.

This module needs neither torch nor any other part of the package.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_FEATURES: Final = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16"),
    *("asimd", "sve", "sve2", "bf16", "i8mm"),
)
"""Instruction sets that a matrix product can use, as Linux names them."""


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: The name that the processor reports.
        family: Family and model, or whatever else identifies its generation; may be empty.
        features: Those of its instruction sets that matter for products.
        cores: How many of its cores this process may use.
    """

    name: str
    family: str
    features: tuple[str, ...]
    cores: int

    def __str__(self) -> str:
        kind = f" ({self.family})" if self.family else ""
        features = f", {' '.join(self.features)}" if self.features else ""
        return f"{self.name}{kind}{features}, {self.cores} cores"


@functools.cache
def processor() -> Processor:
    """The processor of this machine."""
    facts = _cpuinfo()
    name = facts.get("model name") or _asked("machdep.cpu.brand_string") or platform.processor()
    parts = [
        f"{short} {facts[key]}"
        for key, short in (
            *(("cpu family", "family"), ("model", "model")),
            *(("CPU implementer", "implementer"), ("CPU part", "part")),
        )
        if key in facts
    ]
    flags = facts.get("flags", facts.get("Features", "")).split()
    return Processor(
        name=name or platform.machine(),
        family=", ".join(parts),
        features=tuple(feature for feature in _FEATURES if feature in flags),
        cores=_cores(),
    )


def _cpuinfo() -> dict[str, str]:
    """The entries for the first processor that Linux lists; empty on other systems."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _asked(name: str) -> str:
    """The value of a macOS system setting (sysctl); empty on other systems."""
    if platform.system() != "Darwin":
        return ""
    try:
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
