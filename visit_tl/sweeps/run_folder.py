"""The folder of a run: a manifest, and tables in shards that are written whole or not at all.

    run/manifest.json            what the run is of: model, prompts, studies, options, versions
    run/done/00007.json          shard 7 is done: the sizes and checksums of its tables
    run/heads_ov/00007.parquet   the rows of one study for the prompts of shard 7

The mark in `done/` is written after all tables of its shard. A shard without it is measured again,
and its tables are replaced. So a run that is killed at any moment loses no finished shard, and no
row is there twice. `run_files.py` says what holds of a single file, here and at an address.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, Final

from visit_tl.arguments.words import short
from visit_tl.errors import FileError
from visit_tl.sweeps.run_files import LOCK, run_files
from visit_tl.sweeps.tables import OWN

SCHEMA: Final = "visit_tl sweep run 1"
_FREE: Final = ("versions",)
"""What may differ when a run is continued."""
_SAID: Final = "source"
"""What is said of a study, and changes no number of it."""
_MAY_BE_UNKNOWN: Final = "code"
_MANIFEST: Final = "manifest.json"


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder, or an address that fsspec opens.

    Raises:
        FileError: it is an address of an unknown kind, or its package is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self._files = run_files(path)

    @property
    def path(self) -> Path | str:
        """The folder; the address as text, if it is not on this machine."""
        return self._files.place

    @property
    def filesystem(self) -> Any:
        """What pyarrow opens the files with; None on this machine."""
        return self._files.filesystem

    # --- what the run is of --------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """What the run is of.

        Raises:
            FileError: the folder holds no run, or its manifest is damaged.
        """
        file = self._files.path(_MANIFEST)
        try:
            data = json.loads(self._files.read(_MANIFEST))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileError(
                f"{self.path} is no folder of a run: it has no manifest.json"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            # A process that is killed can leave half of it, where files are not written at once.
            raise FileError(
                f"{file} cannot be read: {error}; remove it and the rest of the run"
            ) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise FileError(f"{file} is no manifest of a run (expected the schema {SCHEMA!r})")
        return data

    def check_free(self) -> None:
        """Check that the folder is new, empty, or one of a run; nothing is written.

        Raises:
            FileError: it holds other files, or cannot be read.
        """
        names = self._files.names()
        held = [] if _MANIFEST in names else [name for name in names if not _is_ours(name)]
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
        if not self._files.exists(_MANIFEST):
            content = json.dumps(about, indent=1, ensure_ascii=True) + "\n"
            self._files.write(_MANIFEST, content.encode())
            return
        if (other := _difference(self.read(), about)) is not None:
            name, before, now = other
            raise FileError(
                f"{self.path} is of another run: its {name} is {before}, this one's is {now}; name "
                f"a new folder"
            )
        self._files.tidy()

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder, so that no other process runs a sweep there; a killed one lets go.

        At an address nothing can be held: a note is left there, and who finds it is warned.

        Raises:
            FileError: another process holds it, or it cannot be written to.
        """
        return self._files.locked()

    # --- shards --------------------------------------------------------------------------------

    def done(self) -> set[int]:
        """The shards that are done: their marks, and files of the sizes that these name."""
        sizes = cache(self._files.sizes)
        return {shard for shard, mark in self._marks() if _has_sizes(shard, mark, sizes)}

    def sound(self, tables: set[str]) -> dict[int, int]:
        """The shards whose tables are all there, to the byte, each with its number of errors.

        Args:
            tables: The tables that a shard must have.
        """
        sizes = cache(self._files.sizes)
        return {
            shard: mark["errors"]
            for shard, mark in self._marks()
            if tables == set(mark["tables"])
            and _has_sizes(shard, mark, sizes)
            and self._has_checksums(shard, mark)
        }

    def write_shard(self, shard: int, tables: Mapping[str, bytes], errors: int) -> None:
        """Write the tables of a shard, and then its mark.

        Raises:
            FileError: the disk is full, or the folder cannot be written to.
        """
        self._files.remove(_mark(shard))  # it is of the tables that are replaced
        for name, content in tables.items():
            self._files.write(_table(name, shard), content)
        sums = {name: [len(content), zlib.crc32(content)] for name, content in tables.items()}
        self._files.write(_mark(shard), json.dumps({"tables": sums, "errors": errors}).encode())

    def files(self, table: str) -> list[str]:
        """The files of one table, in the order of the prompts; only of shards that are done."""
        return [self._files.path(_table(table, shard)) for shard in sorted(self.done())]

    def _marks(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The marks that can be read."""
        held = sorted(self._files.sizes("done"))
        shards = {f"done/{n}": int(n[:-5]) for n in held if re.fullmatch(r"\d{5,}\.json", n)}
        for name, content in self._files.read_all(list(shards)).items():
            try:
                mark = json.loads(content)
            except (ValueError, RecursionError):
                continue
            if _is_mark(mark):
                yield shards[name], mark

    def _has_checksums(self, shard: int, mark: Mapping[str, Any]) -> bool:
        names = {_table(name, shard): checksum for name, (_, checksum) in mark["tables"].items()}
        contents = self._files.read_all(list(names))
        return names == {name: zlib.crc32(content) for name, content in contents.items()}


def _mark(shard: int) -> str:
    return f"done/{shard:05}.json"


def _table(name: str, shard: int) -> str:
    return f"{name}/{shard:05}.parquet"


def _has_sizes(
    shard: int, mark: Mapping[str, Any], sizes: Callable[[str], Mapping[str, int]]
) -> bool:
    tables = mark["tables"].items()
    return all(sizes(name).get(f"{shard:05}.parquet") == size for name, (size, _) in tables)


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
    return name == LOCK or name.startswith(f".{_MANIFEST}.")


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
