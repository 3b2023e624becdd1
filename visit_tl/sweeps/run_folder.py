"""The folder of a run: a manifest, and tables in shards that are written whole or not at all.

    run/manifest.json            what the run is of: model, prompts, studies, options, versions
    run/done/00007.json          shard 7 is done: its tables with their rows and sizes
    run/heads_ov/00007.parquet   the rows of one study for the prompts of shard 7

The mark in `done/` is written after all tables of its shard. A shard without it is measured again,
and its tables are replaced. So a run that is killed at any moment loses no finished shard, and no
row is there twice.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from visit_tl.errors import FileError
from visit_tl.files import write

SCHEMA: Final = "visit_tl sweep run 1"
_FREE: Final = ("versions", "n_shards")
"""What may differ when a run is continued."""


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    # --- what the run is of --------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """What the run is of.

        Raises:
            FileError: the folder holds no run, or its manifest is damaged.
        """
        file = self.path / "manifest.json"
        try:
            data = json.loads(file.read_bytes())
        except FileNotFoundError as error:
            raise FileError(
                f"{self.path} is no folder of a run: it has no manifest.json"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"{file} cannot be read: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise FileError(f"{file} is no manifest of a run (expected the schema {SCHEMA!r})")
        return data

    def begin(self, about: Mapping[str, Any]) -> None:
        """Start the run, or continue it.

        Raises:
            FileError: the folder is of another run (the message names what differs), holds other
                files, or cannot be written to.
        """
        about = {"schema": SCHEMA, **json.loads(json.dumps(about))}
        file = self.path / "manifest.json"
        if file.exists():
            before = self.read()
            for name in {**about, **before}:
                if name not in _FREE and before.get(name) != about.get(name):
                    raise FileError(
                        f"{self.path} is of another run: its {name} is {_short(before.get(name))}, "
                        f"this one's is {_short(about.get(name))}; name a new folder"
                    )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise FileError(f"{self.path} cannot be made: {error.strerror or error}") from error
        if strangers:
            raise FileError(
                f"{self.path} holds other files ({', '.join(strangers[:3])}); name an empty or new "
                f"folder"
            )
        write(file, (json.dumps(about, indent=1, ensure_ascii=True) + "\n").encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that no other process runs a sweep there; a killed one lets go.

        Raises:
            FileError: another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FileError(
                f"{self.path} cannot be written to: {error.strerror or error}"
            ) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FileError(
                    f"another process runs a sweep in {self.path}; wait for it, or name another "
                    f"folder"
                ) from error
            yield
        finally:
            os.close(handle)

    # --- shards --------------------------------------------------------------------------------

    def done(self) -> set[int]:
        """The shards that are done."""
        marks = self.path / "done"
        if not marks.is_dir():
            return set()
        return {
            int(mark.stem)
            for mark in marks.iterdir()
            if re.fullmatch(r"\d{5,}\.json", mark.name) and self._whole(mark)
        }

    def write_shard(
        self, shard: int, tables: Mapping[str, bytes], facts: Mapping[str, Any]
    ) -> None:
        """Write the tables of a shard, and then its mark.

        Raises:
            FileError: the disk is full, or the folder cannot be written to.
        """
        try:
            for name in (*tables, "done"):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(
                f"{self.path} cannot be written to: {error.strerror or error}"
            ) from error
        for name, content in tables.items():
            write(self.path / name / f"{shard:05}.parquet", content)
        mark = {"tables": {name: len(content) for name, content in tables.items()}, **facts}
        write(self.path / "done" / f"{shard:05}.json", json.dumps(mark).encode())

    def files(self, table: str) -> list[Path]:
        """The files of one table, in the order of the prompts; only of shards that are done."""
        return [self.path / table / f"{shard:05}.parquet" for shard in sorted(self.done())]

    def _whole(self, mark: Path) -> bool:
        """Whether a mark can be read and its tables have the sizes that it names."""
        try:
            sizes = json.loads(mark.read_bytes())["tables"]
            return all(
                (self.path / name / f"{mark.stem}.parquet").stat().st_size == size
                for name, size in sizes.items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
