"""Folders in the user's cache, which are either complete or absent.

A folder is built in a staging folder beside it, gets its manifest last and is moved into place by
one rename. Staging folders exist only while the lock is held. Whoever holds the lock may therefore
remove every staging folder that it finds: the process that made it was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visit_tl.errors import FileError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


class CacheWarning(UserWarning):
    """Something in the cache had changed since it was written, and was rebuilt."""


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds everything visit_tl keeps.

    Args:
        cache_dir: Overrides the environment and the default.

    Returns:
        `cache_dir`, else `$VISIT_TL_CACHE`, else the user's cache folder for visit_tl. It may
        not exist yet.
    """
    chosen = os.fspath(cache_dir) if cache_dir is not None else os.environ.get("VISIT_TL_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("visit_tl", appauthor=False)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    # Read through a 4 MiB buffer: 0.43 s for 538 MB that the system holds in memory.
    with path.open("rb", buffering=0) as stream:
        buffer = memoryview(bytearray(1 << 22))
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Record the size and sha256 of every file in a folder, as the last file written there.

    Args:
        folder: A finished folder without subfolders.
        facts: Other values that `check_folder` compares, such as the source's sha256. They must
            be equal after a round trip through JSON.
    """
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    record = {"format": MANIFEST_FORMAT, "facts": dict(facts), "files": files}
    (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def check_folder(folder: Path, facts: Mapping[str, Any]) -> str | None:
    """Compare a folder with its manifest.

    Args:
        folder: A folder that `write_manifest` described.
        facts: What was given to `write_manifest`.

    Returns:
        None if the folder is unchanged, else what is wrong with it, in words for the user.
    """
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found_format, found_facts = record["format"], record["facts"]
        expected = [
            (name, int(entry["size"]), str(entry["sha256"]))
            for name, entry in record["files"].items()
        ]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    if found_format != MANIFEST_FORMAT or found_facts != dict(facts):
        return f"{MANIFEST} describes another build"
    return _first_difference(folder, expected)


def _first_difference(folder: Path, expected: list[tuple[str, int, str]]) -> str | None:
    """Name the first file that differs from its (name, size, sha256); sizes are checked first."""
    for name, size, _ in expected:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    for name, _, sha256 in expected:
        try:
            found_sha256 = sha256_of(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if found_sha256 != sha256:
            return f"{name} has sha256 {found_sha256[:12]}... instead of {sha256[:12]}..."
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock for building `folder`, against other threads and processes.

    The lock belongs to the operating system, which releases it when the process ends.

    Raises:
        FileError: The parent folder cannot be made or written to.
    """
    from filelock import FileLock

    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise FileError(
            f"cannot write to the cache {folder.parent}: {error}. "
            "Point VISIT_TL_CACHE (or cache_dir=) to a folder that you may write to."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Make an empty folder beside `folder` to build in; it is always removed afterwards.

    Call it with the lock held: staging folders of killed processes are removed first.

    Yields:
        An empty folder on the same file system as `folder`.
    """
    prefix = f".staging-{folder.name}-"
    for stale in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def put_in_place(built: Path, folder: Path, place: Path) -> None:
    """Move a finished folder to where it belongs, in one rename.

    Args:
        built: The finished folder, inside `place`.
        folder: Its destination; what is there now is moved into `place` and removed with it.
        place: The staging folder.
    """
    if folder.is_symlink() or folder.exists():
        # A rename cannot replace a folder that is not empty.
        os.replace(folder, place / "replaced")
    os.replace(built, folder)
