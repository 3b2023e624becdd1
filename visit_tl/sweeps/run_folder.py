"""The folder of a run: a manifest, and tables in shards that are written whole or not at all.

    run/manifest.json            what the run is of: model, prompts, studies, options, versions
    run/done/00007.json          shard 7 is done: the sizes and checksums of its tables
    run/heads_ov/00007.parquet   the rows of one study for the prompts of shard 7

The mark in `done/` is written after all tables of its shard. A shard without it is measured again,
and its tables are replaced. So a run that is killed at any moment loses no finished shard, and no
row is there twice.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from visit_tl.arguments.words import short
from visit_tl.errors import FileError
from visit_tl.files import write
from visit_tl.sweeps.tables import OWN

SCHEMA: Final = "visit_tl sweep run 1"
_FREE: Final = ("versions",)
"""What may differ when a run is continued."""
_SAID: Final = "source"
"""What is said of a study, and changes no number of it."""
_MAY_BE_UNKNOWN: Final = "code"
_HELD: Final = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


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
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileError(
                f"{self.path} is no folder of a run: it has no manifest.json"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"{file} cannot be read: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise FileError(f"{file} is no manifest of a run (expected the schema {SCHEMA!r})")
        return data

    def check_free(self) -> None:
        """Check that the folder is new, empty, or one of a run; nothing is written.

        Raises:
            FileError: it holds other files, or cannot be read.
        """
        try:
            if not self.path.exists() or (self.path / "manifest.json").exists():
                return
            held = sorted(p.name for p in self.path.iterdir() if not _is_ours(p.name))
        except OSError as error:
            raise FileError(f"{self.path} is no folder: {error.strerror or error}") from error
        if held:
            raise FileError(
                f"{self.path} holds other files ({', '.join(held[:3])}); name an empty or new "
                f"folder"
            )

    def begin(self, about: Mapping[str, Any]) -> None:
        """Start the run, or continue it.

        Raises:
            FileError: the folder is of another run (the message names what differs), or cannot be
                written to.
        """
        about = {"schema": SCHEMA, **json.loads(json.dumps(about))}
        file = self.path / "manifest.json"
        if not file.exists():
            write(file, (json.dumps(about, indent=1, ensure_ascii=True) + "\n").encode())
            return
        if (other := _difference(self.read(), about)) is not None:
            name, before, now = other
            raise FileError(
                f"{self.path} is of another run: its {name} is {before}, this one's is {now}; name "
                f"a new folder"
            )
        self._tidy()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that no other process runs a sweep there; a killed one lets go.

        Raises:
            FileError: another process holds it, or it cannot be written to.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            fcntl = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some shared filesystems have no locks. Two runs would then write the same tables.
                if error.errno in _HELD:
                    raise FileError(
                        f"another process runs a sweep in {self.path}; wait for it, or name "
                        f"another folder"
                    ) from error
            yield
        finally:
            os.close(handle)

    # --- shards --------------------------------------------------------------------------------

    def done(self) -> set[int]:
        """The shards that are done: their marks, and files of the sizes that these name."""
        return {shard for shard, mark in self._marks() if self._whole(shard, mark, read=False)}

    def sound(self, tables: set[str]) -> dict[int, int]:
        """The shards whose tables are all there, to the byte, each with its number of errors.

        Args:
            tables: The tables that a shard must have.
        """
        return {
            shard: mark["errors"]
            for shard, mark in self._marks()
            if tables == set(mark["tables"]) and self._whole(shard, mark, read=True)
        }

    def write_shard(self, shard: int, tables: Mapping[str, bytes], errors: int) -> None:
        """Write the tables of a shard, and then its mark.

        Raises:
            FileError: the disk is full, or the folder cannot be written to.
        """
        try:
            for name in (*tables, "done"):
                (self.path / name).mkdir(exist_ok=True)
            self._mark(shard).unlink(missing_ok=True)  # it is of the tables that are replaced
        except OSError as error:
            raise self._unwritable(error) from error
        for name, content in tables.items():
            write(self.path / name / f"{shard:05}.parquet", content)
        sums = {name: [len(content), zlib.crc32(content)] for name, content in tables.items()}
        write(self._mark(shard), json.dumps({"tables": sums, "errors": errors}).encode())

    def files(self, table: str) -> list[Path]:
        """The files of one table, in the order of the prompts; only of shards that are done."""
        return [self.path / table / f"{shard:05}.parquet" for shard in sorted(self.done())]

    def _mark(self, shard: int) -> Path:
        return self.path / "done" / f"{shard:05}.json"

    def _marks(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The marks that can be read."""
        folder = self.path / "done"
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not re.fullmatch(r"\d{5,}\.json", file.name):
                continue
            try:
                mark = json.loads(file.read_bytes())
            except (OSError, ValueError, RecursionError):
                continue
            if _is_mark(mark):
                yield int(file.stem), mark

    def _whole(self, shard: int, mark: Mapping[str, Any], *, read: bool) -> bool:
        try:
            for name, (size, checksum) in mark["tables"].items():
                file = self.path / name / f"{shard:05}.parquet"
                if file.stat().st_size != size:
                    return False
                if read and zlib.crc32(file.read_bytes()) != checksum:
                    return False
        except OSError:
            return False
        return True

    def _tidy(self) -> None:
        """Remove what a killed run had begun to write."""
        for file in self.path.glob("*/.*.*.*"):
            if re.fullmatch(r"\.\d{5,}\.(parquet|json)\..*", file.name):
                file.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> FileError:
        return FileError(f"{self.path} cannot be written to: {error.strerror or error}")


def _is_mark(mark: Any) -> bool:
    return (
        isinstance(mark, dict)
        and isinstance(mark.get("errors"), int)
        and isinstance(tables := mark.get("tables"), dict)
        and {*OWN} <= tables.keys()
        and all(isinstance(s, list) and [type(x) for x in s] == [int, int] for s in tables.values())
    )


def _is_ours(name: str) -> bool:
    """Whether a file is one that a run has before its manifest."""
    return name == ".lock" or name.startswith(".manifest.json.")


def _difference(before: Any, now: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first thing in which two runs differ, by name, with both values; None if they do not."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            if key in _FREE if not name else key == _SAID:
                continue
            there, here = before.get(key), now.get(key)
            if key == _MAY_BE_UNKNOWN and (there is None or here is None):
                continue
            if found := _difference(there, here, f"{name}.{key}" if name else key):
                return found
        return None
    if before == now:
        return None
    return name, _told(before), _told(now)


def _told(value: Any) -> str:
    return f"{{{', '.join(sorted(value))}}}" if isinstance(value, dict) else short(value)
