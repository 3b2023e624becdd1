"""The tables of a run, and their summaries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import File, Flag, Name, Names, Theme
from visit_tl.drawn import Drawn
from visit_tl.errors import FileError, InputError
from visit_tl.sweeps.registry import PROMPT, TYPES
from visit_tl.sweeps.run_folder import RunFolder
from visit_tl.sweeps.summaries import Moments
from visit_tl.sweeps.tables import ERRORS, OWN, PROMPTS, arrow

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SHOWN: Final = 3
"""Failures that the text of a run shows."""


@dataclass(frozen=True)
class SweepRun(Drawn):
    """A run of studies over prompts, in a folder.

    Attributes:
        path: The folder; the address as text, if it is not on this machine.
        about: What the run is of: model, prompts, studies and their options, versions.
    """

    path: Path | str
    about: dict[str, Any] = field(repr=False)

    @property
    def folder(self) -> RunFolder:
        """The folder as files."""
        return RunFolder(self.path)

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the studies."""
        return tuple(self.about["studies"])

    @property
    def n_prompts(self) -> int:
        """Number of prompts, broken ones included."""
        return int(self.about["n_prompts"])

    @property
    def complete(self) -> bool:
        """Whether all shards are done."""
        return len(self.folder.done()) == int(self.about["n_shards"])

    @checked
    def table(self, study: Name) -> pd.DataFrame:
        """All rows of a study, in the order of the prompts.

        Args:
            study: Its name; `prompts` is the table of the prompts, `errors` that of what failed.

        Raises:
            InputError: there is no such table.
            FileError: no shard is done yet, or a file is damaged.
        """
        with self._reading(study):
            return self.dataset(study).to_table().to_pandas()

    @checked
    def dataset(self, study: Name) -> Any:
        """The rows of a study as a pyarrow dataset, which reads only what is asked for.

        Raises:
            InputError: there is no such table.
            FileError: no shard is done yet, or a file is damaged.
        """
        files = self._files(study)
        with self._reading(study):
            found = arrow("dataset").dataset
            return found(files, format="parquet", filesystem=self.folder.filesystem)

    @checked
    def summary(self, study: Name, by: Names | None = None) -> pd.DataFrame:
        """The mean of each number by group, one shard in memory at a time.

        First the rows of a prompt are averaged in each group, then the prompts: rows of one prompt
        are no independent measurements. Values that are not a number are left out. Numbers are
        columns of float64 and bool, whose mean is the share that is true.

        Args:
            study: Its name.
            by: The columns that are grouped by; None is what the study says, [] is all rows.

        Returns:
            A row for each group: its columns; `n`, the number of prompts with rows in it; `share`,
            that number of all measured prompts; and for each number its mean and `..._se`, the
            standard error of the mean over prompts, NaN for one prompt.

        Raises:
            InputError: there is no such table, or it has no such column.
            FileError: no shard is done yet, or a file is damaged.
        """
        columns = self._columns(study)
        own = self.about["studies"].get(study, {}).get("by", ())
        groups = list(dict.fromkeys(own if by is None else by))
        if unknown := [name for name in groups if name not in columns]:
            raise InputError(f"{study} has no column {unknown[0]!r}; it has {', '.join(columns)}")
        numbers = [
            name
            for name, kind in columns.items()
            if kind in ("float64", "bool") and name not in groups
        ]
        found = Moments(groups, numbers)
        read, chosen = arrow("parquet").read_table, [PROMPT, *groups, *numbers]
        for file in self._files(study):
            with self._reading(study):
                part = read(file, columns=chosen, filesystem=self.folder.filesystem)
            found.add(part.to_pandas())
        return found.table(self.measured, columns)

    @contextmanager
    def _reading(self, study: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, arrow("lib").ArrowException) as error:
            raise FileError(
                f"the table {study} of {self.path} cannot be read: {error}; run the same sweep "
                f"again to have damaged shards measured again"
            ) from error

    @property
    def measured(self) -> int:
        """Number of prompts that were measured so far."""
        kept = self.dataset(PROMPTS).to_table(columns=["kept"])["kept"].to_numpy()
        return int(kept.sum())

    @checked
    def figure(self, study: Name, *, by: Names | None = None, theme: Theme = "light") -> go.Figure:
        """The summary of a study as a figure.

        Tokens are drawn as words, norms as changes of probability, neurons as points, and all
        others as curves over the layers or as maps of layers and heads.

        Args:
            study: Its name.
            by: The columns that are grouped by, `layer` among them; None is what the study says.
            theme: `light` or `dark`.

        Raises:
            InputError: the run has no such study, it is not summarised by layer, or it has more
                groups than can be drawn.
        """
        if study not in self.studies:
            raise InputError(f"this run has no study {study!r}; it has {', '.join(self.studies)}")
        return self._drawn("figure", study, by=by, theme=theme)

    @checked
    def save(self, path: File, *, overwrite: Flag = False, theme: Theme = "light") -> Path:
        """Write the figures of all studies as one HTML page that needs nothing else.

        Raises:
            FileError: the path is no `.html` file, a file that is not ours is there and `overwrite`
                is False, or it cannot be written to.
        """
        return self._drawn("save", path, overwrite=overwrite, theme=theme)

    def _columns(self, study: str) -> dict[str, str]:
        known = {**{n: dict(c) for n, c in OWN.items()}, **self._of_studies()}
        if study not in known:
            raise InputError(f"this run has no table {study!r}; it has {', '.join(known)}")
        return known[study]

    def _of_studies(self) -> dict[str, dict[str, str]]:
        return {name: dict(one["columns"]) for name, one in self.about["studies"].items()}

    def _files(self, study: str) -> list[str]:
        self._columns(study)
        if not (files := self.folder.files(study)):
            raise FileError(f"no shard of {self.path} is done yet")
        return files

    def __str__(self) -> str:
        done, all_of = len(self.folder.done()), self.about["n_shards"]
        lines = [f"{self.about['model']}: {self.n_prompts} prompts, {done} of {all_of} shards done"]
        if not done:
            return lines[0]
        for name in (*self.studies, PROMPTS, ERRORS):
            rows = self.dataset(name).count_rows()
            lines.append(f"  {name:<24} {rows:>9} rows")
        errors = self.dataset(ERRORS).head(_SHOWN).to_pylist()
        for one in errors:
            where = f"prompt {one[PROMPT]}" + (f", {one['study']}" if one["study"] else "")
            lines.append(f"  {where}: {one['error']}")
        return "\n".join(lines)


Folder = Annotated[File, Taken("the folder of a run, or its address", "'run/'", "File")]


@checked
def open_run(path: File) -> SweepRun:
    """Open a run that `sweep` made, or is making.

    Args:
        path: Its folder, or its address.

    Raises:
        FileError: it is no folder of a run, its manifest is damaged, or it cannot be reached.
    """
    folder = RunFolder(path)
    about = folder.read()
    wanted = {"model": str, "studies": dict, "n_prompts": int, "n_shards": int}
    for name, kind in wanted.items():
        if not isinstance(about.get(name), kind):
            raise FileError(f"the manifest of {path} is damaged: {name!r} is no {kind.__name__}")
    for name, one in about["studies"].items():
        if not _is_study(one):
            raise FileError(f"the manifest of {path} is damaged: the study {name!r} has no columns")
    return SweepRun(folder.path, about)


def _is_study(one: Any) -> bool:
    if not isinstance(one, dict):
        return False
    columns, by = one.get("columns"), one.get("by")
    if not isinstance(columns, dict) or not isinstance(by, list):
        return False
    return all(kind in TYPES for kind in columns.values()) and {*map(str, by)} <= columns.keys()
