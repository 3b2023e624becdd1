"""Why the name movers of SmolLM2-135M look at the indirect object; results go to docs/data.

python examples/ioi_scores.py

For each name mover and prompt, its score from END to IO is taken apart, and so is the difference of
its scores to IO and to S2. Then the output of each of the largest writers is replaced by what it is
on the ABC prompt, for the head's query (at END) or key (at IO) alone, and the score is measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import visit_tl as vt
from visit_tl.causal.patching.block_replay import BlockRows
from visit_tl.causal.residual_writes import WrittenRun
from visit_tl.circuits import Part
from visit_tl.circuits.prompts import ioi
from visit_tl.studies.agreement import spearman

DATA = Path(__file__).parents[1] / "docs" / "data" / "ioi_scores.json"
MOVERS = ("L23H0", "L23H7", "L23H1", "L23H2")
PROMPTS = 16
WRITERS = 10
KINDS = {
    "S-inhibition": ("L20H0", "L19H2"),
    "duplicate token": ("L5H6", "L15H7", "L8H0", "L8H1", "L14H3"),
    "embed": ("embed",),
}
"""What docs/studies/ioi_smollm2.md calls these heads."""


def main() -> None:
    """Measure, and write docs/data/ioi_scores.json."""
    model = vt.load_model("smollm2-135m", verbose=False)
    view = vt.ModelView(model)
    pairs = list(ioi(model, PROMPTS, prepend_bos=False))
    found = {head: [taken_apart(view, head, pair) for pair in pairs] for head in MOVERS}
    chosen = {head: largest_writers(found[head]) for head in MOVERS}
    patched = [patch(view, pair, chosen, {h: found[h][i] for h in MOVERS})
               for i, pair in enumerate(pairs)]  # fmt: skip
    result: dict[str, Any] = {"prompts": len(pairs), "heads": {}}
    for head in MOVERS:
        result["heads"][head] = summary(found[head], [one[head] for one in patched])
    result["agreement"] = agreement(result["heads"])
    DATA.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def taken_apart(view: Any, head: str, pair: Any) -> dict[str, Any]:
    """The scores from END to IO, S1 and S2, taken apart."""
    at = pair.positions
    return {
        name: vt.causal.attention_attribution(view, list(pair.ids), head, at["END"], at[name])
        for name in ("IO", "S1", "S2")
    }


def largest_writers(found: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The parts with the largest mean sums over the other side, by side: of IO less S2, of IO."""
    names = found[0]["IO"].query_parts
    contrast = np.mean([(one["IO"].matrix - one["S2"].matrix).sum(1) for one in found], 0)
    keys = np.mean([one["IO"].matrix.sum(0) for one in found], 0)
    return {
        side: [names[i] for i in np.argsort(-np.abs(values))[:WRITERS]]
        for side, values in (("query", contrast), ("key", keys))
    }


def patch(view: Any, pair: Any, chosen: Any, apart: Any) -> dict[str, dict[str, Any]]:
    """The change of scores and attention when one writer's output is that of the ABC prompt.

    The scale of ln1 is the one of the changed stream: this is what the model would compute.
    """
    ids = view.encode(list(pair.ids), False)
    other = view.encode(list(pair.corrupted["ABC"].ids), False)
    clean, corrupted = WrittenRun(view, ids), WrittenRun(view, other)
    end, io, s2 = (pair.positions[name] for name in ("END", "IO", "S2"))
    rows = BlockRows(clean, 23)
    own = clean.at(23, "resid_pre")
    slots = ("rotated_query", "rotated_keys")
    before = rows({"resid_pre": own[None]}, slots)
    found = {}
    for head in MOVERS:
        number = vt.NodeId.parse(head).head
        group = int(view.kv_head(before["rotated_keys"].shape[2])[number])
        scale = apart[head]["IO"].scale
        changes: dict[str, Any] = {}
        for side, position in (("query", end), ("key", io)):
            for name in chosen[head][side]:
                delta = torch.zeros_like(own)
                part = part_of(name)
                delta[position] = (
                    corrupted.writes.parts[part][position] - clean.writes.parts[part][position]
                )
                after = rows({"resid_pre": (own + delta)[None]}, slots)
                q = before["rotated_query"][0, end, number]
                k = before["rotated_keys"][0, : end + 1, group].clone()
                plain = scale * k @ q
                if side == "query":
                    q = after["rotated_query"][0, end, number]
                else:
                    k[io] = after["rotated_keys"][0, io, group]
                new = scale * k @ q
                values = apart[head]["IO"].marginal(side).set_index("part")["value"]
                less = apart[head]["S2"].marginal(side).set_index("part")["value"]
                changes[f"{side} {name}"] = {
                    "adds": float(values[name]),
                    "adds to IO less S2": float(values[name] - less[name]),
                    "score": float(new[io] - plain[io]),
                    "IO less S2": float((new[io] - new[s2]) - (plain[io] - plain[s2])),
                    "attention": float(new.softmax(-1)[io] - plain.softmax(-1)[io]),
                }
        found[head] = changes
    return found


def part_of(name: str) -> Part:
    """The part of path patching that a part of a score is."""
    return Part("input") if name == "embed" else Part.parse(name)


def mean(values: Any) -> list[float]:
    """Mean and standard error."""
    x = np.asarray(values, float)
    return [round(float(x.mean()), 3), round(float(x.std(ddof=1) / np.sqrt(len(x))), 3)]


def summary(found: list[dict[str, Any]], patched: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard errors over prompts for one head."""
    names = found[0]["IO"].query_parts
    contrast = [one["IO"].matrix - one["S2"].matrix for one in found]
    table: dict[str, Any] = {
        "score": {name: mean([one[name].score for one in found]) for name in ("IO", "S1", "S2")},
        "attention": {
            name: mean([one[name].attention for one in found]) for name in ("IO", "S1", "S2")
        },
        "largest error": max(float(a.error) for one in found for a in one.values()),
        "top 20 pairs": mean([sum(p.value for p in one["IO"].parts[:-1]) for one in found]),
        "kinds": {},
    }
    sides = {
        "query": np.array([one["IO"].matrix.sum(1) for one in found]),
        "key": np.array([one["IO"].matrix.sum(0) for one in found]),
        "query, IO less S2": np.array([m.sum(1) for m in contrast]),
        "key, IO less S2": np.array([m.sum(0) for m in contrast]),
    }
    for side, values in sides.items():
        order = np.argsort(-np.abs(values.mean(0)))[:8]
        table[side] = {names[i]: mean(values[:, i]) for i in order}
        table["kinds"][side] = {
            kind: mean(values[:, [names.index(n) for n in heads]].sum(1))
            for kind, heads in KINDS.items()
        }
        mlps = [i for i, n in enumerate(names) if n.endswith("mlp_out")]
        heads_ = [i for i, n in enumerate(names) if "H" in n]
        table["kinds"][side] |= {
            "all heads": mean(values[:, heads_].sum(1)),
            "all MLPs": mean(values[:, mlps].sum(1)),
        }
    average = np.mean([one["IO"].matrix for one in found], 0)
    for name, cells in (("pairs", average), ("pairs, IO less S2", np.mean(contrast, 0))):
        order = np.argsort(-np.abs(cells).ravel())[:6]
        each = contrast if "less" in name else [one["IO"].matrix for one in found]
        table[name] = {
            f"{names[i // len(names)]} x {names[i % len(names)]}": mean(
                [m.ravel()[i] for m in each]
            )
            for i in order
        }
    table["patched"] = {
        key: {what: mean([one[key][what] for one in patched]) for what in patched[0][key]}
        for key in patched[0]
    }
    return table


def agreement(heads: dict[str, Any]) -> dict[str, Any]:
    """Spearman's correlation, over writers and heads, of what is added and what patching takes."""
    told = {}
    for side in ("query", "key"):
        rows = [p for h in heads.values() for k, p in h["patched"].items() if k.startswith(side)]
        for adds, change in (("adds", "score"), ("adds to IO less S2", "IO less S2"),
                             ("adds", "attention")):  # fmt: skip
            pair = [np.array([row[what][0] for row in rows]) for what in (adds, change)]
            told[f"{side}: {adds}, {change}"] = round(float(spearman(pair[0], -pair[1])), 2)
    return told


if __name__ == "__main__":
    main()
