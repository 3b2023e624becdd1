"""The tables of docs/studies/visit_paper.md, from docs/data; a test compares them.

python examples/visit_paper_tables.py      writes them into the page, between its marks
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from visit_tl.escaping import visible

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "studies" / "visit_paper.md"
THIRDS = ("layers 0 to 9", "10 to 19", "20 to 29")
FOLLOWED = (" the", " a", " not", " of", " and", " Microsoft")


def results() -> dict[str, Any]:
    """The results of the full run."""
    return json.loads((DOCS / "data" / "visit_paper.json").read_text(encoding="utf-8"))["results"]


def frame(name: str) -> pd.DataFrame:
    """One table of the results."""
    return pd.DataFrame(results()[name])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def word(token: str) -> str:
    """A token as code, with its spaces seen."""
    return f"`{visible(token)}`".replace("|", "\\|")


def by_third(name: str, columns: Sequence[str]) -> list[list[str]]:
    """Means of columns over each third of the blocks."""
    found = frame(name)
    thirds = found.groupby(found["layer"] // 10)[list(columns)].mean()
    return [[f"{value:.3f}" for value in thirds[column]] for column in columns]


def heads() -> list[str]:
    """Heads before and after W_O."""
    states = ("attn", "block", "final")
    rows = [
        [label, state, *values]
        for name, label in (("heads_naive", "`A_j` alone"), ("heads_ov", "`A_j W_O`"))
        for state, values in zip(states, by_third(name, states), strict=True)
    ]
    return table(["", "I_k with", *THIRDS], rows)


def top_heads() -> list[str]:
    """Heads by the rank of their norm."""
    found = frame("top_heads").groupby("rank")[["norm", "attn", "block", "final"]].mean()
    rows = [
        [str(rank), f"{one.norm:.1f}", *(f"{v:.3f}" for v in (one.attn, one.block, one.final))]
        for rank, one in zip(found.index, found.itertuples(index=False), strict=True)
    ]
    return table(["rank of the norm", "norm", "attn", "block", "final"], rows)


def prompts() -> list[str]:
    """The three largest heads, over known facts, all facts and random tokens."""
    known = frame("top_heads")
    drawn = frame("correct_vs_random").groupby("random")[["attn", "block", "final"]].mean()
    parts = {
        "the facts that it knows": known[known["rank"] < 3][["attn", "block", "final"]].mean(),
        "all facts": frame("top_heads, all")[["attn", "block", "final"]].mean(),
        "random tokens": drawn.loc[True],
    }
    rows = [[name, *(f"{value:.3f}" for value in part)] for name, part in parts.items()]
    return table(["prompts", "attn", "block", "final"], rows)


def memories() -> list[str]:
    """Memory values by the rank of their attention."""
    found = frame("memory_values_all")
    early = found[found["layer"] < 4].groupby("rank").mean()
    late = found[found["layer"] >= 4].groupby("rank").mean()
    rows = [
        [str(rank), *(f"{part.loc[rank, column]:.3f}" for part in (early, late)
                      for column in ("attention", "head_overlap"))]
        for rank in (0, 1, 2, 3, 5, 8, 13)
    ]  # fmt: skip
    columns = ["rank", "attention, layers 0 to 3", "I_k", "attention, layers 4 to 29", "I_k"]
    return table(columns, rows)


def residual() -> list[str]:
    """The attention's output and the residual stream."""
    names = {
        "resid_pre": "the stream before it, `resid_pre`",
        "previous_resid_pre": "one block before that",
        "resid_mid": "the stream after it, `resid_mid`",
        "resid_post": "the stream after the block, `resid_post`",
        "previous_attn_out": "the attention's output one block before",
    }
    rows = by_third("attn_vs_residual", list(names))
    told = [[label, *row] for label, row in zip(names.values(), rows, strict=True)]
    return table(["I_k of the attention's output with", *THIRDS], told)


def final_prob() -> list[str]:
    """The probability of the prediction, by layer."""
    layers = (1, 5, 10, 15, 20, 24, 26, 28, 29, 30)
    found = frame("final_prob_by_layer, all").pivot(index="correct", columns="layer", values="prob")
    rows = [
        [label, *(f"{found.loc[correct, layer]:.3f}" for layer in layers)]
        for correct, label in ((True, "correct"), (False, "wrong"))
    ]
    return table(["prediction", *map(str, layers)], rows)


def queries_keys() -> list[str]:
    """Queries, keys and values."""
    rows = []
    names = {
        "k_vs_v": ("key and value", {"naive": "as they are", "naive_key": "key as it is, `v W_O`",
                                     "qk": "`k W_Qᵀ`, `v W_O`"}),
        "q_vs_k": ("query and key", {"naive": "as they are", "qk": "`q W_Kᵀ`, `k W_Qᵀ`"}),
    }  # fmt: skip
    for name, (label, kinds) in names.items():
        mean, each = frame(name), frame(f"{name} by head")
        for column, how in kinds.items():
            best = each.loc[each[column].idxmax()]
            head = f"L{int(best['layer'])}H{int(best['head'])}"
            share = float((each[column] > 0.1).mean())
            rows.append([label, how, f"{mean[column].item():.3f}", f"{best[column]:.2f} (`{head}`)",
                         f"{share:.1%}"])  # fmt: skip
    return table(["I_k of", "read as", "mean", "largest head", "heads above 0.1"], rows)


def filtered() -> list[str]:
    """Words before and after norms."""
    found = frame("ln_filter")
    found = found[found["kind"] == "word"]
    layers = sorted(found["layer"].unique())
    rows = []
    for norm in ("ln1", "ln2"):
        for token in FOLLOWED:
            own = found[(found["norm"] == norm) & (found["token"] == token)].set_index("layer")
            cells = [f"{own.loc[i, 'before']:.1e} → {own.loc[i, 'after']:.1e}" for i in layers]
            rows.append([norm, word(token), *cells])
        target = frame("ln_filter by kind")
        target = target[(target["norm"] == norm) & (target["kind"] == "target")].set_index("layer")
        cells = [f"{target.loc[i, 'before']:.1e} → {target.loc[i, 'after']:.1e}" for i in layers]
        rows.append([norm, "the answer", *cells])
    return table(["norm", "token", *(f"layer {i}" for i in layers)], rows)


def _movers(name: str, norms: Sequence[str]) -> list[str]:
    found = frame(name)
    rows = []
    for norm in norms:
        own = found[found["norm"] == norm]
        for layer in sorted(own["layer"].unique()):
            part = own[own["layer"] == layer]
            cells = [
                " ".join(map(word, part[part["kind"] == kind].sort_values("rank")["token"]))
                for kind in ("loser", "gainer")
            ]
            rows.append([norm, str(layer), *cells])
    return table(["norm", "layer", "lose most", "gain most"], rows)


def movers() -> list[str]:
    """Losers and gainers of the mean state."""
    return _movers("movers", ("ln1", "ln2"))


def bare_movers() -> list[str]:
    """The same without the final norm."""
    return _movers("movers without the final norm", ("ln1",))


def mean_state() -> list[str]:
    """Top tokens of the mean state."""
    found, rows = frame("mean state"), []
    for (norm, layer), part in found.groupby(["norm", "layer"]):
        cells = [
            " ".join(map(word, part[part["side"] == side].sort_values("rank")["token"]))
            for side in ("before", "after")
        ]
        rows.append([str(norm), str(layer), *cells])
    return table(["norm", "layer", "before", "after"], rows)


def neurons() -> list[str]:
    """The neuron of each late block that most prompts have."""
    found, words = frame("most frequent neurons"), results()["words of neurons"]
    first = found.sort_values(["layer", "share"], ascending=[True, False]).groupby("layer").head(1)
    rows = [
        [f"`L{one.layer}N{one.neuron}`", f"{one.share:.1%}",
         f"{one.norm:.2f} ({one.layer_norm:.2f})", f"{one.entropy:.2f} ({one.layer_entropy:.2f})",
         " ".join(map(word, words[f"L{one.layer}N{one.neuron}"]))]
        for one in first[first["layer"] >= 20].itertuples()
    ]  # fmt: skip
    columns = ["neuron", "share of prompts", "norm (mean of the block)",
               "entropy (mean of the block)", "its words"]  # fmt: skip
    return table(columns, rows)


def outliers() -> list[str]:
    """The entries of frequent neurons that are furthest from usual ones."""
    found = frame("outlier_entries")
    found["times"] = found["weight"].abs() / found["mean_absolute"]
    late = found[found["layer"] >= 20].sort_values("times", ascending=False)
    rows = [
        [f"`L{int(one.layer)}N{int(one.neuron)}`", str(int(one.dimension)), f"{one.weight:.2f}",
         f"{one.mean_absolute:.2f}", f"{one.times:.1f}"]
        for one in late.head(8).itertuples()
    ]  # fmt: skip
    columns = ["neuron", "dimension", "weight", "a usual neuron", "times"]
    return [line.replace("| -", "| −") if not line.startswith("| ---") else line
            for line in table(columns, rows)]  # fmt: skip


def ioi() -> list[str]:
    """The heads with the best and the worst median rank of the indirect object."""
    found = pd.DataFrame(results()["ioi"]["median rank"]).sort_values(["rank", "layer", "head"])
    named = [f"`L{int(o.layer)}H{int(o.head)}` {o.rank:,.1f}" for o in found.itertuples()]
    rows = [["highest", ", ".join(named[:6])], ["lowest", ", ".join(named[-3:])]]
    return table(["", "heads and the median rank of IO"], rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    one.__name__: one
    for one in (heads, top_heads, prompts, memories, residual, final_prob, queries_keys, filtered,
                movers, bare_movers, mean_state, neurons, outliers, ioi)
}  # fmt: skip


def main() -> None:
    """Write each table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in TABLES.items():
        text, n = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, made=made: "\n".join([found[1], *made(), "", found[2]]),
            text,
            flags=re.DOTALL,
        )
        if n != 1:
            raise SystemExit(f"the page has {n} places for {name}")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
