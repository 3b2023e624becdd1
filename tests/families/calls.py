"""What is called on every family: each public call that runs a model or reads its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, Final

import torch

import visit_tl as vt

IDS: Final = [0, 3, 5, 7, 9, 11, 2]
OTHER: Final = [0, 3, 6, 7, 9, 11, 2]
SEGMENTS: Final = [(0, 3), (3, 7)]


def _metric() -> Any:
    return vt.causal.logit_difference(5, 7)


def _graph(model: Any) -> Any:
    return vt.flow_graph(model, IDS, target=5)


def _effects(model: Any, **options: Any) -> Any:
    return vt.causal.effects(model, IDS, _metric(), corrupted=OTHER, verbose=False, **options)


def _shifted(model: Any) -> None:
    with vt.gradients.shift(model, IDS, 5, layer=0) as edited:
        edited(torch.tensor([IDS]))


def _patched(model: Any) -> None:
    maps = vt.reversed_attention(model, IDS, 5)
    with vt.gradients.attention_patching(model, maps) as patched:
        patched(torch.tensor([IDS]))


def _saved(model: Any) -> None:
    graph = _graph(model)
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("html", "json", "svg"):
            graph.save(f"{folder}/graph.{ending}")
        vt.FlowGraph.load(f"{folder}/graph.json")


def _swept(model: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        studies = ["top_heads", "memory_values_top3", "ln_filter"]
        vt.sweep(model, [IDS, OTHER], studies, folder, verbose=False)


CALLS: Final[dict[str, Callable[[Any], Any]]] = {
    "check": vt.check,
    "flow_graph": _graph,
    "flow_graph of an earlier position": lambda model: vt.flow_graph(
        model, IDS, position=2, layers=0
    ),
    "flow_graph with segments": lambda model: vt.flow_graph(model, IDS, segments=SEGMENTS),
    "flow_graph as in the paper": lambda model: vt.flow_graph(model, IDS, preset="paper"),
    "flow_graphs": lambda model: vt.flow_graphs(model, [IDS, OTHER], verbose=False),
    "save and load": _saved,
    "figure": lambda model: _graph(model).figure(),
    "heads": lambda model: _graph(model).heads(),
    "attribution": lambda model: _graph(model).attribution(),
    "lens_table": lambda model: vt.lens_table(model, IDS),
    "attention": lambda model: vt.attention(model, IDS, "L0H0"),
    "generate": lambda model: vt.generate(model, IDS, 2, verbose=False),
    "generate_text": lambda model: vt.generate_text(model, IDS, 2, verbose=False),
    "generate_text with segments": lambda model: vt.generate_text(
        model, IDS, 2, segments=SEGMENTS, verbose=False
    ),
    "prefix_cache": lambda model: vt.prefix_cache(model, IDS),
    "effects": _effects,
    "effects of states everywhere": lambda model: _effects(
        model, nodes="resid_pre", positions="all"
    ),
    "effects, screened": lambda model: _effects(model, screen="attribution", top=2),
    "effects of a graph": lambda model: _graph(model).effects(
        _metric(), corrupted=OTHER, verbose=False
    ),
    "edge_effects": lambda model: vt.causal.edge_effects(
        model, IDS, _metric(), corrupted=OTHER, verbose=False
    ),
    "edge_effects of a graph": lambda model: _graph(model).edge_effects(
        _metric(), corrupted=OTHER, verbose=False
    ),
    "faithfulness": lambda model: vt.causal.faithfulness(
        model, [(IDS, OTHER)], _metric(), ["L0H0"], verbose=False
    ),
    "attention_attribution": lambda model: vt.causal.attention_attribution(
        model, IDS, "L0H0", None, 1
    ),
    "backward_lens": lambda model: vt.backward_lens(model, IDS, 5, check="all"),
    "backward_lens with segments": lambda model: vt.backward_lens(model, IDS, 5, segments=SEGMENTS),
    "reversed_attention": lambda model: vt.reversed_attention(model, IDS, 5),
    "attention_patching": _patched,
    "shift": _shifted,
    "sweep": _swept,
}


def outcome(call: Callable[[Any], Any], model: Any) -> str:
    """`ok`, `refused: ` and the reason, or `raw: ` and an error that is none of ours."""
    try:
        call(model)
    except vt.VisitError as error:
        return f"refused: {' '.join(str(error).split())}"
    except Exception as error:
        return f"raw: {type(error).__name__}: {' '.join(str(error).split())}"
    return "ok"
