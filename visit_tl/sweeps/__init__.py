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
    from visit_tl.sweeps.paper_run import PaperRun, open_paper, visit_paper
    from visit_tl.sweeps.prompt_run import PromptRun
    from visit_tl.sweeps.registry import Study, studies, study
    from visit_tl.sweeps.results import SweepRun
    from visit_tl.sweeps.results import open_run as open  # noqa: A004 (vt.sweeps.open)
    from visit_tl.sweeps.sweep_call import sweep

_HOMES = {
    "PaperRun": ("paper_run", "PaperRun"),
    "PromptRun": ("prompt_run", "PromptRun"),
    "Study": ("registry", "Study"),
    "SweepRun": ("results", "SweepRun"),
    "open": ("results", "open_run"),
    "studies": ("registry", "studies"),
    "study": ("registry", "study"),
    "open_paper": ("paper_run", "open_paper"),
    "sweep": ("sweep_call", "sweep"),
    "top_overlap": ("overlap", "top_overlap"),
    "visit_paper": ("paper_run", "visit_paper"),
}

__all__ = [
    "PaperRun",
    "PromptRun",
    "Study",
    "SweepRun",
    "open",
    "open_paper",
    "studies",
    "study",
    "sweep",
    "top_overlap",
    "visit_paper",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'visit_tl.sweeps' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(import_module(f"visit_tl.sweeps.{module}"), own)


def __dir__() -> list[str]:
    return sorted(__all__)
