"""All figures of a run, or of the runs of the paper, on one page."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

from visit_tl.errors import FileError, InputError
from visit_tl.sweeps.paper_run import PaperRun
from visit_tl.sweeps.registry import studies
from visit_tl.sweeps.results import SweepRun
from visit_tl.view import save_figures
from visit_tl.view.figures.studies.choose import figure, text
from visit_tl.view.save_figures import Content, Section


def save(
    run: SweepRun | PaperRun, path: str | Path, *, overwrite: bool = False, theme: str = "light"
) -> Path:
    """Write a page of all figures, with the numbers folded under each; return its path.

    Raises:
        FileError: as `save_figures.save`, or the path is no `.html` file.
    """
    if Path(path).suffix.lower() != ".html":
        raise FileError(f"{path}: a run is saved as a page; name a path that ends in .html")
    path = save_figures.check(path, overwrite=overwrite)
    first = run.correct if isinstance(run, PaperRun) else run
    parts = [(run.run_of(name) if isinstance(run, PaperRun) else run, name)
             for name in first.studies]  # fmt: skip
    sections = list(_sections(parts, theme))
    content = Content(
        figure=lambda: sections[0].figures[0],
        text=lambda: str(run),
        table=lambda: first.summary(first.studies[0]),
        sections=lambda: sections,
        title=f"{first.about['model']}: {first.measured} prompts",
        theme=theme,
    )
    return save_figures.save(path, content, overwrite=overwrite)


def _sections(parts: Iterable[tuple[SweepRun, str]], theme: str) -> Iterable[Section]:
    known = studies()
    for run, name in parts:
        about = inspect.getdoc(known[name].function) if name in known else None
        said = f"{name}: {about.splitlines()[0]}" if about else name
        try:
            figures = [figure(run, name, theme=theme)]
        except InputError as error:
            figures, said = [], f"{said} (no figure: {error})"
        yield Section(said, figures, text(run, name))
