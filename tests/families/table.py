"""The tables of docs/compatibility.md, from what was measured in each environment.

    python -m tests.families.table --measure locked    # into docs/data/compatibility_locked.json
    python -m tests.families.table --write             # both environments into the page

`make compatibility` does it all.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.families.rows import Row, is_raw

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "compatibility.md"
ENVIRONMENTS: Final = ("locked", "newest")
RELEASES: Final = ("transformer-lens", "transformers", "torch")

_BEGIN, _END = "<!-- table -->", "<!-- end of table -->"
_NO_DECODER: Final = "only decoders"
_COLUMNS: Final = (
    "family", "norm", "positions", "attention", "MLP", "blocks", "laws", "prediction", "patching",
    "seconds", "locked", "newest",
)  # fmt: skip


def path_of(environment: str) -> Path:
    """Where the rows of an environment are kept."""
    return ROOT / "docs" / "data" / f"compatibility_{environment}.json"


def kept(environment: str) -> dict[str, Any]:
    """What was measured in an environment: its releases, and a row for each family."""
    return json.loads(path_of(environment).read_text(encoding="utf-8"))


def measure(environment: str) -> None:
    """Check every family with what is installed here, and keep the rows."""
    from tests.families import build
    from tests.families.measure import each

    rows = []
    for row in each(build.names()):
        rows.append(row)
        print(f"{row['family']:48} {shortened(row['verdict'])}", flush=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    releases = json.dumps({name: version(name) for name in RELEASES})
    text = f'{{"releases": {releases},\n"families": [\n{lines}\n]}}\n'
    path_of(environment).write_text(text, encoding="utf-8")


def shortened(verdict: str) -> str:
    """A verdict up to the end of its first clause, without the name of the small model."""
    words = re.sub(r"( of)? tiny-\S+", "", verdict)
    return re.split(r"\. (?=[A-Z])|;", words)[0].replace(": is ", ": ").rstrip(".")


def failed(verdict: str) -> bool:
    """Whether a family ended in an error that is none of ours, in a crash or in no time."""
    return verdict.startswith("raw") or is_raw(verdict)


def counts(rows: list[Row]) -> str:
    """How many of the decoders are exact, drawn with parts that are not opened, or refused."""
    found = Counter(_kind(row["verdict"]) for row in rows)
    return ", ".join(f"{found[kind]} {kind}" for kind in _KINDS if found[kind])


_KINDS: Final = ("exact", "exact but for parts that are not opened", "refused", "failed")


def _kind(verdict: str) -> str:
    if failed(verdict):
        return "failed"
    if verdict.startswith("refused"):
        return "refused"
    return _KINDS[0] if verdict == "exact" else _KINDS[1]


def markdown() -> str:
    """The part of the page between its marks."""
    data = {name: kept(name) for name in ENVIRONMENTS}
    rows = {name: {row["family"]: row for row in data[name]["families"]} for name in ENVIRONMENTS}
    locked = list(rows["locked"].values())
    decoders = [row for row in locked if _is_decoder(row)]
    made = [
        f"- {name}: {', '.join(f'{k} {v}' for k, v in data[name]['releases'].items())}: "
        f"{counts([row for row in rows[name].values() if _is_decoder(row)])}."
        for name in ENVIRONMENTS
    ]
    lines = [
        f"TransformerLens lists {len(locked)} names and variants of families; {len(decoders)} of "
        f"them are decoders of text that can be made here. Measured with",
        "",
        *made,
        "",
        _row(_COLUMNS),
        "|" + "---|" * len(_COLUMNS),
        *(_row(_cells(row, rows["newest"].get(row["family"]))) for row in decoders),
        "",
        "Families that read or write something else than text, each refused by name:",
        "",
        *_grouped([row for row in locked if _NO_DECODER in row["verdict"]]),
        "",
        "Families of which no small model can be made here, and why:",
        "",
        *_grouped([row for row in locked if row["verdict"].startswith("not built")]),
    ]
    return "\n".join(lines)


def _is_decoder(row: Row) -> bool:
    return _NO_DECODER not in row["verdict"] and not row["verdict"].startswith("not built")


def _cells(row: Row, newest: Row | None) -> tuple[str, ...]:
    there = None if newest is None else newest["verdict"]
    same = "not listed" if there is None else "the same"
    return (
        row["family"],
        *(str(row.get(key, "")) for key in ("norm", "positions", "attention", "mlp", "blocks")),
        _number(row.get("error")),
        _number(row.get("own")),
        str(row.get("patching", "")),
        "" if row.get("seconds") is None else f"{row['seconds']:.1f}",
        shortened(row["verdict"]),
        same if there in (None, row["verdict"]) else shortened(there),
    )


def _number(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _grouped(rows: list[Row]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        said = shortened(row["verdict"]).partition(": ")[2]
        reasons.setdefault(_general(said), []).append(row["family"])
    return [f"- {reason}: {', '.join(names)}." for reason, names in sorted(reasons.items())]


def _general(reason: str) -> str:
    """A reason without the name of the family's own class, so that families share it."""
    if "library from" in reason:
        return f"TransformerLens needs {reason.partition('optional ')[2].partition(' library')[0]}"
    if "requires the" in reason:
        return f"transformers needs {reason.partition('requires the ')[2].partition(' ')[0]}"
    return reason


def page() -> str:
    """The page as its data say."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{markdown()}\n\n{_END}{after}"


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="The compatibility tables.")
    parser.add_argument("--measure", choices=ENVIRONMENTS, help="check all families, keep the rows")
    parser.add_argument("--write", action="store_true", help="write the page")
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure)
    if asked.write:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    _main()
