"""The files of a run, in a folder of this machine or at an address that fsspec opens.

What holds of them differs. Here, a file is written whole or not at all, and a lock keeps other
processes out. An object store, such as S3, stores whole objects too, but has no locks; other
filesystems may keep half a file when a process is killed. Names are relative to the folder, such
as `heads_ov/00007.parquet`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from visit_tl.errors import FileError, warn_caller
from visit_tl.files import write

LOCK: Final = ".lock"
_HELD: Final = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_HERE: Final = ("file", "local")
"""The protocols of addresses that are folders of this machine."""


class LocalFiles:
    """Files in a folder of this machine.

    Args:
        place: The folder.
    """

    filesystem: None = None
    """What pyarrow opens files with; None is its own way."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def path(self, name: str) -> str:
        """The path of a file, as pyarrow takes it."""
        return str(self.place / name)

    def names(self) -> list[str]:
        """What the folder holds, itself; nothing if there is no such folder.

        Raises:
            FileError: it is no folder, or cannot be read.
        """
        try:
            return sorted(os.listdir(self.place)) if self.place.exists() else []
        except OSError as error:
            raise FileError(f"{self.place} is no folder: {error.strerror or error}") from error

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.place / name).exists()

    def sizes(self, folder: str) -> dict[str, int]:
        """The size of each file in a folder of the run; nothing if there is no such folder."""
        found: dict[str, int] = {}
        with suppress(OSError):
            for entry in os.scandir(self.place / folder):
                with suppress(OSError):
                    found[entry.name] = entry.stat().st_size
        return found

    def read(self, name: str) -> bytes:
        """A file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        return (self.place / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Several files, without those that are not there or cannot be read."""
        found: dict[str, bytes] = {}
        for name in names:
            with suppress(OSError):
                found[name] = self.read(name)
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            FileError: the disk is full, or the folder cannot be written to.
        """
        file = self.place / name
        with self._writing():
            file.parent.mkdir(exist_ok=True)
        write(file, content)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one.

        Raises:
            FileError: the folder cannot be written to.
        """
        with self._writing():
            (self.place / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a killed run had begun to write."""
        for file in self.place.glob("*/.*.*.*"):
            if re.fullmatch(r"\.\d{5,}\.(parquet|json)\..*", file.name):
                file.unlink(missing_ok=True)

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
        with self._writing():
            self.place.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.place / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some shared filesystems have no locks. Two runs would then write the same tables.
                if error.errno in _HELD:
                    raise FileError(
                        f"another process runs a sweep in {self.place}; wait for it, or name "
                        f"another folder"
                    ) from error
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(
                f"{self.place} cannot be written to: {error.strerror or error}"
            ) from error


class RemoteFiles:
    """Files at an address, such as `s3://bucket/run`, by the filesystem of fsspec for it.

    Args:
        place: The address.
        filesystem: The filesystem of fsspec.
        root: The folder of the run in it.
    """

    def __init__(self, place: str, filesystem: Any, root: str) -> None:
        self.place, self.filesystem, self._root = place, filesystem, root.rstrip("/")

    def path(self, name: str) -> str:
        """The path of a file, as pyarrow takes it."""
        return f"{self._root}/{name}"

    def names(self) -> list[str]:
        """What the folder holds, itself; nothing if there is no such folder.

        Raises:
            FileError: it is no folder, or cannot be read.
        """
        held = self._listed(self._root)
        if any(one["type"] == "file" and _same(one["name"], self._root) for one in held):
            raise FileError(f"{self.place} is no folder")
        return sorted(_last(one["name"]) for one in held)

    def exists(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            FileError: the address cannot be reached.
        """
        with self._reached():
            self.filesystem.invalidate_cache()
            return bool(self.filesystem.exists(self.path(name)))

    def sizes(self, folder: str) -> dict[str, int]:
        """The size of each file in a folder of the run; nothing if there is no such folder.

        Raises:
            FileError: the address cannot be reached.
        """
        held = self._listed(self.path(folder))
        return {_last(one["name"]): one["size"] for one in held if one["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A file.

        Raises:
            FileNotFoundError: it is not there.
            FileError: the address cannot be reached.
        """
        with self._reached():
            return self.filesystem.cat_file(self.path(name))

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Several files, without those that are not there.

        Raises:
            FileError: the address cannot be reached.
        """
        with self._reached():
            paths = [self.path(name) for name in names]
            contents = self.filesystem.cat_ranges(paths, None, None, on_error="return")
            for one in contents:
                if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
                    raise one
        pairs = zip(names, contents, strict=True)
        return {name: one for name, one in pairs if not isinstance(one, Exception)}

    def write(self, name: str, content: bytes) -> None:
        """Write a file; whether it is whole or not at all is up to the filesystem.

        Raises:
            FileError: it cannot be written.
        """
        path = self.path(name)
        try:
            try:
                self.filesystem.pipe_file(path, content)
            except FileNotFoundError:
                # Unlike an object store, this may be a filesystem with folders. A bucket is not
                # made.
                if not self.filesystem.isdir(_parent(self._root)):
                    raise
                self.filesystem.makedirs(_parent(path), exist_ok=True)
                self.filesystem.pipe_file(path, content)
        except Exception as error:
            with suppress(Exception):
                self.filesystem.rm_file(path)  # it may be half of it
            raise FileError(f"{self.place}/{name} cannot be written: {_reason(error)}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if there is one.

        Raises:
            FileError: it cannot be removed.
        """
        with self._reached(), suppress(FileNotFoundError):
            if self.filesystem.exists(self.path(name)):
                self.filesystem.rm_file(self.path(name))

    def tidy(self) -> None:
        """Nothing: no file is written under another name first."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Leave a note that a sweep runs here. It keeps nobody out: who finds it is warned.

        Raises:
            FileError: the address cannot be reached or written to.
        """
        if (found := self.read_all([LOCK]).get(LOCK)) is not None:
            warn_caller(
                f"{_owner(found)} began a sweep in {self.place}, and there is no note that it "
                f"ended. If it still runs, stop one of the two: they measure the same",
                UserWarning,
            )
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        own = {"host": socket.gethostname(), "process": os.getpid(), "began": now}
        note = json.dumps(own).encode()
        self.write(LOCK, note)
        try:
            yield
        finally:
            with suppress(FileError):
                if self.read_all([LOCK]).get(LOCK) == note:
                    self.remove(LOCK)

    def _listed(self, path: str) -> list[dict[str, Any]]:
        try:
            with self._reached():
                self.filesystem.invalidate_cache()
                return self.filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise FileError(f"{self.place} cannot be reached: {_reason(error)}") from error


RunFiles = LocalFiles | RemoteFiles


def run_files(place: str | Path) -> RunFiles:
    """The files of a run.

    Args:
        place: A folder, or an address that fsspec opens. `file://` is a folder of this machine.

    Raises:
        FileError: it is an address of an unknown kind, or its package is not installed.
    """
    text = str(place)
    if isinstance(place, Path) and re.match(r"[A-Za-z][\w+.-]+:/[^/]", text) and not place.exists():
        raise FileError(
            f"{text} was an address before it was a Path, which leaves out a slash; pass it as text"
        )
    if "://" not in text:
        return LocalFiles(Path(place))
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(text)
    except ImportError as error:
        raise FileError(f"{text} needs a package that is not installed: {error}") from error
    except Exception as error:
        raise FileError(f"{text} cannot be opened: {_reason(error)}") from error
    known = filesystem.protocol
    if {*_HERE} & ({known} if isinstance(known, str) else {*known}):
        return LocalFiles(Path(root))
    return RemoteFiles(text, filesystem, root)


def _owner(note: bytes) -> str:
    try:
        told = json.loads(note)
        return f"process {told['process']} of {told['host']}, at {told['began']},"
    except (ValueError, TypeError, KeyError):
        return "another process"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _same(one: str, other: str) -> bool:
    return one.strip("/") == other.strip("/")
