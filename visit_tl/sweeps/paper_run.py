"""`visit_paper`: all measurements of VISIT over a model's facts, as the paper makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, File, Flag, Model, Name, Names, Theme, Whole
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.studies.facts import all_facts
from visit_tl.sweeps.registry import Study, chosen_studies, studies
from visit_tl.sweeps.results import SweepRun, open_run
from visit_tl.sweeps.sweep_call import PER_SHARD, Engine, Only, Prompts, Studies, sweep

if TYPE_CHECKING:
    import plotly.graph_objects as go

_CORRECT, _ALL = "correct", "all"
"""The folders of the two runs."""
_BOTH: Final = ("top_heads", "final_prob_by_layer")
"""Studies that the paper makes of prompts that the model answers and of others: Fig. 13 and 14."""


@dataclass(frozen=True)
class PaperRun(Drawn):
    """The measurements of VISIT on one model.

    Attributes:
        correct: All studies, of the prompts that the model answers correctly.
        all: Two studies, of all prompts; None if the first run is of all prompts already.
    """

    correct: SweepRun
    all: SweepRun | None

    @checked
    def figure(self, study: Name, *, by: Names | None = None, theme: Theme = "light") -> go.Figure:
        """A figure of the paper, as `SweepRun.figure`.

        `final_prob_by_layer` is drawn of all prompts, correct ones and others; all others of the
        prompts that the model answers correctly.

        Raises:
            InputError: as `SweepRun.figure`.
        """
        return self.run_of(study).figure(study, by=by, theme=theme)

    @checked
    def run_of(self, study: Name) -> SweepRun:
        """The run that the figure of a study is drawn from."""
        return self.correct if study != _BOTH[1] or self.all is None else self.all

    @checked
    def save(self, path: File, *, overwrite: Flag = False, theme: Theme = "light") -> Path:
        """Write all figures as one HTML page that needs nothing else.

        Raises:
            FileError: the path is no `.html` file, a file that is not ours is there and `overwrite`
                is False, or it cannot be written to.
        """
        return self._drawn("save", path, overwrite=overwrite, theme=theme)

    def __str__(self) -> str:
        parts = [f"prompts that the model answers\n{self.correct}"]
        if self.all is not None:
            parts.append(f"all prompts\n{self.all}")
        return "\n".join(parts)


@checked
def visit_paper(
    model: Model,
    out: File,
    prompts: Prompts = None,
    studies: Studies = (),
    *,
    prepend_bos: Flag | None = None,
    only: Only | None = "correct",
    n: Count | None = None,
    per_shard: Count = PER_SHARD,
    strict: Flag = False,
    engine: Engine | None = None,
    workers: Count = 1,
    num_cpus: Count = 1,
    num_gpus: Whole = 0,
    verbose: Flag = True,
) -> PaperRun:
    """Measure all that VISIT (Katz and Belinkov, 2023) measures, on one model.

    As in the paper, the prompts are those that the model answers correctly. What the paper compares
    with other prompts (Fig. 13 and 14) is measured on all of them in a second run.

    Args:
        model: As for `sweep`.
        out: A folder or an address; the two runs are `correct` and `all` in it. Each can be
            continued.
        prompts: As for `sweep`; None is the 1,209 facts of Meng et al. (2022) that come with the
            package.
        studies: More studies, measured with the first run.
        prepend_bos: As for `sweep`.
        only: `correct`; None measures all prompts, which then need no target, in one run.
        n: As for `sweep`.
        per_shard: As for `sweep`.
        strict: As for `sweep`.
        engine: As for `sweep`.
        workers: As for `sweep`.
        num_cpus: As for `sweep`.
        num_gpus: As for `sweep`.
        verbose: As for `sweep`.

    Raises:
        InputError: as `sweep`.
        FileError: as `sweep`.
    """
    given = list(all_facts()) if prompts is None else prompts
    shared: dict[str, Any] = {
        "prepend_bos": prepend_bos,
        "n": n,
        "per_shard": per_shard,
        "strict": strict,
        "engine": engine,
        "workers": workers,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "verbose": verbose,
    }
    more = {one.name: one for one in (chosen_studies(studies) if studies else ())}
    chosen = list((paper_studies() | more).values())
    correct = sweep(model, given, chosen, _inside(out, _CORRECT), only=only, **shared)
    if not correct.measured:
        raise InputError(
            f"{correct.about['model']} answers none of the {correct.n_prompts} prompts correctly, "
            f"so there is nothing to draw; only=None (--only all) measures all of them"
        )
    if only is None:
        return PaperRun(correct, None)
    return PaperRun(correct, sweep(model, given, list(_BOTH), _inside(out, _ALL), **shared))


@checked
def open_paper(path: File) -> PaperRun:
    """Open what `visit_paper` made.

    Raises:
        FileError: it is no such folder, a run in it is missing, or a manifest is damaged.
    """
    correct = open_run(_inside(path, _CORRECT))
    return PaperRun(correct, open_run(_inside(path, _ALL)) if correct.about["only"] else None)


def _inside(folder: str | Path, name: str) -> str:
    """A folder in another, or at an address."""
    return f"{str(folder).rstrip('/')}/{name}"


def paper_studies() -> dict[str, Study]:
    """The studies of VISIT, by name; of norms, both that a block has (Fig. 21 and 22)."""
    return {
        name: one.having(norm="all") if "norm" in one.options else one
        for name, one in studies().items()
        if one.paper
    }
