"""Measurements over thousands of prompts: studies, runs of them in folders, and their tables.

    run = vt.sweep(model, "facts.jsonl", ["heads_ov"], out="run/")
    run.summary("heads_ov")

A study is a function from one forward pass to rows of a table. `paper/` has those of VISIT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.sweeps.overlap import top_overlap
    from visit_tl.sweeps.prompt_run import PromptRun
    from visit_tl.sweeps.registry import Study, studies, study

_MODULES = {
    "PromptRun": "prompt_run",
    "Study": "registry",
    "studies": "registry",
    "study": "registry",
    "top_overlap": "overlap",
}

__all__ = ["PromptRun", "Study", "studies", "study", "top_overlap"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'visit_tl.sweeps' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.sweeps.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
