"""All measurements of VISIT on SmolLM2-135M: the data and the figures of the page.

    python examples/visit_paper.py --out build/visit_paper

The sweep takes about an hour on one core; if it is stopped, the same command goes on. The tables of
the page are made by `visit_paper_tables.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import visit_tl as vt
from visit_tl.lens.readout import read
from visit_tl.studies.facts import all_facts
from visit_tl.sweeps.paper.mean_states import mean_state_movers, mean_state_tokens
from visit_tl.view.kaleido_image import draw

DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "data" / "visit_paper.json"
IMAGES = DOCS / "images" / "studies" / "visit_paper"
DRAWN = (
    "heads_naive",
    "heads_ov",
    "top_heads",
    "memory_values_top3",
    "memory_values_all",
    "memory_values_by_head",
    "attn_vs_residual",
    "final_prob_by_layer",
    "input_token_prob",
    "k_vs_v",
    "q_vs_k",
    "ln_filter",
    "ln_without_lnf",
    "regularisation_neurons",
    "neuron_entropy_norm",
    "outlier_entries",
)
"""Studies whose figures are on the page; the other tables are lists of words."""


def compact(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """A table as columns, numbers with six digits."""

    def plain(value: Any) -> Any:
        if isinstance(value, float | np.floating):
            return None if np.isnan(value) else float(f"{value:.6g}")
        return value.item() if isinstance(value, np.generic) else value

    return {name: [plain(value) for value in frame[name]] for name in frame.columns}


def measured(paper: vt.sweeps.PaperRun, extra: vt.sweeps.SweepRun) -> dict[str, Any]:
    """What the tables of the page need of the runs."""
    run = paper.correct
    curves = ("heads_naive", "heads_ov", "memory_values_top3", "memory_values_all",
              "attn_vs_residual", "input_token_prob")  # fmt: skip
    found = {name: compact(run.summary(name)) for name in curves}
    found["correct_vs_random"] = compact(run.summary("correct_vs_random", ["layer", "random"]))
    found["top_heads"] = compact(extra.summary("top_heads"))
    for name in ("k_vs_v", "q_vs_k"):
        found[name] = compact(run.summary(name, []))
        found[f"{name} by layer"] = compact(run.summary(name, ["layer"]))
        found[f"{name} by head"] = compact(run.summary(name))
    found["memory_values_by_head"] = compact(run.summary("memory_values_by_head"))
    assert paper.all is not None
    for name in ("final_prob_by_layer", "top_heads"):
        found[f"{name}, all"] = compact(paper.all.summary(name))
    neurons = extra.summary("neuron_entropy_norm")
    found["frequent neurons"] = compact(neurons[neurons["share"] >= 0.85])
    found["active neurons"] = compact(
        neurons.groupby("layer")[["norm", "entropy", "layer_norm", "layer_entropy"]]
        .mean()
        .reset_index()
    )
    found["most frequent neurons"] = compact(most_frequent(extra))
    entries = extra.summary("outlier_entries")
    found["outlier_entries"] = compact(entries[entries["share"] >= 0.5])
    for name in ("ln_filter", "ln_without_lnf"):
        table = run.summary(name)
        found[name] = compact(table[table["kind"].isin(["word"]) | (table["share"] >= 0.25)])
        by_kind = run.summary(name, ["layer", "norm", "kind"])
        found[f"{name} by kind"] = compact(by_kind)
    return found


def most_frequent(extra: vt.sweeps.SweepRun) -> pd.DataFrame:
    """The two neurons of each block that most prompts have among the 100 most active ones."""
    neurons = extra.summary("neuron_entropy_norm")
    first = neurons.sort_values(["share", "neuron"], ascending=[False, True]).groupby("layer")
    return first.head(2).sort_values(["layer", "share"], ascending=[True, False])


def words_of_neurons(view: vt.ModelView, best: pd.DataFrame) -> dict[str, list[str]]:
    """The top tokens of rows of W_out."""
    found = {}
    for one in best.itertuples():
        rows = view.weights(one.layer).W_out
        assert rows is not None
        top = read(view, rows[one.neuron][None], k=6).top_ids[0].tolist()
        found[f"L{one.layer}N{one.neuron}"] = [view.tokens.text(i) for i in top]
    return found


def ioi(model: Any, out: Path) -> dict[str, Any]:
    """Rank and probability of the indirect object in every head, over IOI prompts (Fig. 6)."""
    prompts = vt.circuits.prompts.ioi(model, 120)
    run = vt.sweep(model, prompts, ["target_by_head"], out / "ioi")
    table = run.table("target_by_head")
    median = table.groupby(["layer", "head"])["rank"].median().reset_index()
    return {"n": run.measured, "median rank": compact(median)}


def main() -> None:
    """Measure, or go on; then write the data and the figures."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--out", type=Path, default=Path("build/visit_paper"))
    out = asked.parse_args().out
    model = vt.load_model("smollm2-135m")
    paper = vt.sweeps.visit_paper(model, out)
    studies = vt.sweeps.studies()
    rows = ("neuron_entropy_norm", "outlier_entries")
    more = [
        studies["top_heads"].having(top=9),
        *(studies[name].having(layers="all") for name in rows),
    ]
    extra = vt.sweep(model, list(all_facts()), more, out / "extra", only="correct")

    shown = paper.correct.table("prompts")
    known = [(fact.prompt, fact.target) for fact, kept in
             zip(all_facts(), shown["kept"], strict=True) if kept]  # fmt: skip
    texts = [prompt for prompt, _ in known]
    results = measured(paper, extra)
    view = vt.ModelView(model)
    results["words of neurons"] = words_of_neurons(view, most_frequent(extra))
    means = {"layers": [13, 18], "norm": "ln1"}, {"layers": [16], "norm": "ln2"}
    tokens = [mean_state_tokens(model, texts, **one) for one in means]
    results["mean state"] = compact(pd.concat(tokens, ignore_index=True))
    movers = [mean_state_movers(model, texts, norm=norm) for norm in ("ln1", "ln2")]
    results["movers"] = compact(pd.concat(movers, ignore_index=True))
    bare = mean_state_movers(model, texts, apply_norm=False)
    results["movers without the final norm"] = compact(bare)
    results["ioi"] = ioi(model, out)
    settings = {"prompts": len(shown), "known": len(known),
                "versions": paper.correct.about["versions"]}  # fmt: skip
    DATA.write_text(json.dumps({"settings": settings, "results": results}, separators=(",", ":"))
                    + "\n", encoding="utf-8")  # fmt: skip
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in DRAWN:
        (IMAGES / f"{name}.svg").write_bytes(draw(paper.figure(name), "svg"))


if __name__ == "__main__":
    main()
