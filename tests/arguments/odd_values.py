"""Every public call with one odd value at a time: what ends in an error that is not our own.

usage: python -m tests.arguments.odd_values. Prints raw errors as JSON. Apart from the tests'
process, where shapes and types are checked on the way and would be refused first; and in a folder
of its own, since some odd values are names of files that the calls write.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from inspect import Parameter, signature
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import visit_tl as vt
from tests import tiny
from tests.arguments.public import public_calls
from tests.circuits import prompt_tokenizers
from visit_tl.arguments.checked import Plan
from visit_tl.circuits.prompts import ioi

CALLS = public_calls()
CHECKED = [name for name, call in CALLS.items() if getattr(call, "__checked__", False)]
SWEEP = ("verbose", "corrupted")


class Hostile:
    """An object whose every answer fails."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __iter__(self):
        raise RuntimeError("no items")

    def __index__(self):
        raise RuntimeError("no index")


def odd_values():
    """Fresh ones: an iterator is used up by the first who looks."""
    return [
        None, True, 0, -1, 99, 10**30, 1.5, float("nan"), float("inf"), 2j,
        "", "all", "x", "L0H1", "a\0b", "\ud800", b"a",
        [], [0], [99], ["x"], [None], [[0], ["x"]], [("a", "b")], {}, {"a": 1}, {"L0H1": None}, {0},
        range(2), (i for i in (0, 1)), slice(0, 2), object(), Hostile(), print, int,
        np.array([0, 1]), np.array([0.5]), np.array("x"), np.int64(1), np.bool_(True),
        torch.tensor(1), torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]), torch.tensor(0.5),
        torch.empty(2, device="meta"),
    ]  # fmt: skip


class Chat:
    """A tokenizer of characters with a chat template."""

    chat_template = "a template"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        text = "".join(f"<{m['role']}>{m['content']};" for m in messages)
        return text + "<assistant>" * add_generation_prompt

    def __call__(self, text, add_special_tokens, return_offsets_mapping):
        places = [(i, i + 1) for i in range(len(text))]
        return {"input_ids": [ord(c) for c in text], "offset_mapping": places}

    def decode(self, ids):
        return "".join(map(chr, ids))


def things():
    """A value for every required argument, by its name, and an object of every class."""
    few = {"names": ["Mary", "John", "Tom"], "places": ["store"], "objects": ["drink"]}
    small = {"heads": 1, "values": 1, "neurons": 2, "layers": [1], "k": 1}
    model, prompt, other = tiny.native(), "a b", "b a"
    metric = vt.causal.logit_difference(3, 4)
    graph = vt.flow_graph(model, prompt, **small)
    graph = graph.attribution().onto(graph)
    sweep = {"corrupted": other, "verbose": False}
    edges = vt.causal.edge_effects(model, prompt, metric, edges=["L0H1->logits"], **sweep)
    grid = np.arange(4.0).reshape(1, 2, 2)
    scores = vt.studies.HeadScores("m", {"a": grid, "effect": grid[:, ::-1]})
    curves = vt.studies.Perturbation((0.0, 100.0), {("t", 0, "s"): grid[0]})
    fact = vt.studies.Fact("Mary went", "Mary", " store", "P1")
    words = prompt_tokenizers.model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompts = ioi(words, 2)
    reference = vt.circuits.load("ioi-wang-2022")
    lens = vt.backward_lens(model, prompt, 3)
    maps = vt.reversed_attention(model, prompt, 3)
    edit = vt.gradients.Edit(prompt, "c")
    sae = Path(__file__).parents[1] / "data" / "features" / "topk"
    z = {"model_name": "native", "hook": "blocks.1.attn.hook_z"}
    of_z = vt.features.open(sae.with_name("old_standard_z"), **z)
    values = {
        "model": model, "prompt": prompt, "prompts": ["a b", "b a"], "metric": metric, "n": 1,
        "heads": ["L0H1"], "view": vt.ModelView(model), "vectors": torch.ones(1, 16),
        "node": "L0H1",
        "source": "L0H1", "head": "L0H1", "state": "L0.resid_post", "edge": "L0H1->logits",
        "ends": ("L0.resid_pre", "L0.attn_in"), "correct": 3, "wrong": 4, "token": 3,
        "pairs": [(prompt, other)], "circuit": ["L0H1"], "reference": reference, "graph": graph,
        "scores": scores, "truth": "effect", "k": 1, "name": "a", "path": "absent/x.json",
        "word": "a", "layers": [0], "position": graph.position, "nodes": ["L0H1"], "kinds": "head",
        "before": graph, "after": graph, "states": vt.lens_table(model, prompt), "targets": [3],
        "at": "END", "dataset": None, "corruption": "ABC", "corrupted": other, "most": 3,
        "logits": torch.ones(2, 40, 99), "lens": lens, "maps": maps, "target": 3, "layer": 1,
        "matrix": "W_out", "edits": [edit], "facts": [(prompt, "a", " c")],
        "verbose": False, "spans": [(0, 2)], "labels": ["a", "a"], "token_ids": [3, 4],
        "segments": [(0, 2)],
        "lenses": {0: torch.eye(16)}, "corpus": "letters",
        "separators": 4, "tokens": ["a", "b"], "by": 1, "length": 2, "tokenizer": Chat(),
        "messages": [{"role": "user", "content": "a"}],
        "x": torch.ones(1, 16), "features": torch.ones(1, 64),
        "feature": 3, "key": 0, "query": 1, "side": "query",
        "query_part": "embed", "key_part": "embed",
    }  # fmt: skip
    per_call = {
        "visit_tl.flow_graph": small,
        "visit_tl.flow_graphs": small,
        "visit_tl.generate": small,
        "visit_tl.explore": {"browser": False},
        "visit_tl.causal.change_hooks": {"changes": [("L0H1", "zero")]},
        "visit_tl.iter_flow_graphs": small,
        **{
            f"visit_tl{room}.sweep": {"studies": "heads_ov", "out": "absent/run"}
            for room in ("", ".sweeps")
        },
        "visit_tl.sweeps.visit_paper": {"out": "absent/run", "prompts": [], "only": None},
        "visit_tl.sweeps.PaperRun.figure": {"study": "heads_ov"},
        "visit_tl.circuits.overlap": {"a": graph, "b": graph, "n": 1, "permutations": 1},
        "visit_tl.sweeps.study": {"columns": {"x": "int64"}},
        "visit_tl.sweeps.SweepRun.summary": {"study": "heads_ov"},
        "visit_tl.sweeps.SweepRun.figure": {"study": "heads_ov"},
        "visit_tl.sweeps.SweepRun.table": {"study": "heads_ov"},
        "visit_tl.sweeps.SweepRun.dataset": {"study": "heads_ov"},
        "visit_tl.segments.batch_mask": {"segments": [vt.Segments(((0, 2),))], "lengths": [2]},
        "visit_tl.segments.SegmentCollator.__call__": {"rows": []},
        "visit_tl.circuits.compare": {"scores": np.ones((12, 12))},
        "visit_tl.causal.faithfulness_curve": {"scores": {"L0H1->logits": 0.5}},
        "visit_tl.causal.edge_effects": {"edges": ["L0H1->logits"]},
        "visit_tl.causal.completeness": {"random": 1},
        "visit_tl.circuits.prompts.ioi": {"model": words, "n": 1, **few},
        "visit_tl.load_model": {"name": "../absent"},
        "visit_tl.circuits.load": {"name": "ioi-wang-2022"},
        "visit_tl.studies.HeadScores.joined": {"other": scores},
        "visit_tl.studies.HeadScores.where": {"prompts": [True]},
        "visit_tl.studies.roles": {
            "only": "induction",
            "probes": 1,
            "length": 4,
            "context": 24,
        },
        "visit_tl.circuits.channel": {"writer": "L0H1", "reader": "L1H0", "kind": "q"},
        "visit_tl.studies.HeadRoles.top": {"role": "induction"},
        "visit_tl.studies.HeadRoles.passing": {"role": "induction"},
        "visit_tl.studies.HeadRoles.__getitem__": {"role": "induction"},
        "visit_tl.circuits.CompositionScores.__getitem__": {"edge": "L0H1->L1H0<q>"},
        "visit_tl.FlowGraph.diff": {"other": graph},
        "visit_tl.lenses.save": {"lens": vt.lenses.Lens("x", {0: torch.eye(16)})},
        "visit_tl.circuits.Part.feeds": {"other": vt.circuits.Part.parse("L1H0")},
        "visit_tl.circuits.Part.parse": {"spelled": "L1H0"},
        "visit_tl.circuits.Edge.parse": {"spelled": "L0H1->L1H0<q>"},
        "visit_tl.NodeId.parse": {"text": "L0H1"},
        "visit_tl.circuits.prompts.PromptSet.load": {"path": "absent.json"},
        "visit_tl.circuits.prompts.baseline": {"model": words, "prompts": prompts},
        "visit_tl.studies.causes": {"model": words, "prompts": prompts},
        "visit_tl.studies.observe": {"model": words, "prompts": prompts},
        "visit_tl.studies.perturbation_test": {"scores": {"s": grid[0]}, "targets": "b"},
        "visit_tl.studies.importances": {"targets": "b", "scores": "index"},
        "visit_tl.studies.one_matrix_trained": {"target": "b", "layer": 0, "rate": 0.1},
        "visit_tl.studies.edits": {"model": words, "facts": [fact]},
        "visit_tl.studies.few_shot": {"model": words, "task": "antonym"},
        "visit_tl.studies.known_facts": {"model": words, "n": 1},
        "visit_tl.studies.Perturbation.joined": {"other": curves},
        "visit_tl.studies.Perturbation.compared": {"score": "s"},
        "visit_tl.view.figures.heads.heads": {"by": "norm"},
        "visit_tl.causal.Effects.onto": {"graph": graph},
        "visit_tl.causal.AttentionAttribution.onto": {"graph": graph},
        "visit_tl.gradients.patching_sweep": {"targets": 3, "alphas": [-1.0], "control": []},
        "visit_tl.gradients.shift_sweep": {"etas": [0.1], "layers": [1]},
        "visit_tl.gradients.ReversedAttention.heads": {"heads": ["L0H1"]},
        **{
            f"visit_tl.gradients.ReversedAttention.{name}": {"head": 1, "layer": 0}
            for name in ("map", "forward_map")
        },
        "visit_tl.gradients.BackwardLens.heads": {"head": 1},
        "visit_tl.features.open": {"source": sae},
        "visit_tl.causal.feature_attribution": {"sae": of_z},
        "visit_tl.FlowGraph.feature_attribution": {"feature": "L1.z.F3", "sae": of_z},
    }
    objects = {
        "FlowGraph": graph, "LensTable": values["states"],
        "LensRanks": vt.lens_ranks(model, prompt, values["lenses"]), "NodeId": graph.nodes[0].id,
        "Attribution": graph.attribution(), "EdgeEffects": edges,
        "AttentionAttribution": graph.why("L1H1", 0),
        "FeatureAttribution": vt.causal.feature_attribution(model, prompt, of_z, 3),
        "Effects": vt.causal.effects(model, prompt, metric, **sweep),
        "GraphEdgeEffects": graph.edge_effects(metric, **sweep),
        "Comparison": vt.circuits.compare(np.ones((12, 12)), reference),
        "Part": vt.circuits.Part.parse("L0H1"), "Edge": vt.circuits.Edge.parse("L0H1->L1H0<q>"),
        "PromptSet": prompts, "HeadScores": scores, "Perturbation": curves,
        "SideBySide": vt.view.compare(graph, graph),
        "BackwardLens": lens, "ReversedAttention": maps, "Factors": lens.factors(1, "W_out"),
        "MatrixReadout": lens.matrices["W_out"], "Edit": edit,
        "Segments": vt.Segments(((0, 2),)), "SegmentCollator": vt.segments.SegmentCollator(0),
        "AttentionView": vt.attention(model, prompt, ["L0H1"]),
        "HeadRoles": vt.studies.HeadRoles(
            "native",
            {"induction": grid[0].repeat(2, 1)},
            {"induction": grid[0].repeat(2, 1)},
            0.1,
            0,
        ),
        "CompositionScores": vt.circuits.composition_scores(model, verbose=False),
        "Channel": vt.circuits.channel(model, "L0H1", "L1H0", "q", n=1),
        "FeatureModule": vt.features.open(sae),
    }  # fmt: skip
    objects["CircuitOverlap"] = vt.circuits.overlap(graph, graph, n=1, permutations=1)
    objects["ChannelUse"] = objects["Channel"].in_prompt(prompt)
    objects["SweepRun"] = sweep_of(model)
    objects["PaperRun"] = vt.sweeps.PaperRun(objects["SweepRun"], None)
    objects["Study"] = vt.sweeps.studies()["heads_ov"]
    return values, per_call, objects


def sweep_of(model):
    """A run in a folder of its own."""
    out = tempfile.mkdtemp() + "/run"
    return vt.sweep(model, ["a b"], ["heads_ov"], out, verbose=False)


# What is left out, since it is not odd there but costly: names that would be looked for on disk
# and beyond, a hundred of what takes its time, and metrics that fail by themselves.
def unfit(name, argument, value):
    """Whether a value is left out."""
    models = ("model", "other_model")
    if isinstance(value, str) and (argument in models or name == "visit_tl.load_model"):
        return True
    if argument == "browser" and (value is None or value is True):  # would open one
        return True
    if argument in ("metric", "target", "targets") and (value is print or value is int):
        return True
    if argument == "engine" and isinstance(value, str):
        return True
    if argument == "segments" and value is int:  # as a rule of segments
        return True
    many = argument in ("random", "n", "batch_size", "probes") and isinstance(value, int)
    return many and 10 < value < 2**63


# Calls that share the code behind an argument; one of each is asked.
ALIKE = {
    "visit_tl.sweep": "sweep", "visit_tl.sweeps.sweep": "sweep",
    "visit_tl.sweeps.visit_paper": "sweep",
    "visit_tl.sweeps.SweepRun.figure": "study", "visit_tl.sweeps.PaperRun.figure": "study",
    "visit_tl.flow_graph": "graph", "visit_tl.flow_graphs": "graph", "visit_tl.generate": "graph",
    "visit_tl.FlowGraph.figure": "figure", "visit_tl.view.figures.sankey.sankey": "figure",
    "visit_tl.LensTable.figure": "lens", "visit_tl.view.figures.lens_table.figure": "lens",
    "visit_tl.causal.faithfulness": "circuit", "visit_tl.causal.completeness": "circuit",
    "visit_tl.causal.minimality": "circuit", "visit_tl.causal.faithfulness_curve": "circuit",
    "visit_tl.causal.edge_effects": "edges", "visit_tl.causal.graph_edge_effects": "edges",
}  # fmt: skip
_SEEN = set()


def seen(name, check, argument, value):
    """Whether the same was asked of the same code; what is refused costs nothing and is not."""
    try:
        read = check(value) if check else value
        key = ALIKE.get(name, name), argument, repr(read)
    except (vt.VisitError, RuntimeError):
        return False
    if key in _SEEN:
        return True
    _SEEN.add(key)
    return False


def raw_errors(name, things):
    """What ended in an error that is not the package's."""
    values, per_call, objects = things
    parameters = signature(CALLS[name]).parameters
    owner = [objects[name.split(".")[-2]]] if {"self", "cls"} & set(parameters) else []
    owner = [type(owner[0])] if "cls" in parameters else owner
    checks = Plan(CALLS[name].__wrapped__).checks
    given = {
        p: values[p]
        for p in checks
        if p in values and (parameters[p].default is Parameter.empty or p in SWEEP)
    } | per_call.get(name, {})
    raw = []
    for argument, number in itertools.product(checks, range(len(odd_values()))):
        value, rest = odd_values()[number], []
        if unfit(name, argument, value) or seen(name, checks[argument], argument, value):
            continue
        named = {**given, argument: odd_values()[number]}
        if parameters[argument].kind is Parameter.VAR_POSITIONAL:
            rest = [named.pop(argument)]
        try:
            made = CALLS[name](*owner, *rest, **named)
            if isinstance(made, Iterator):
                list(islice(made, 3))
            if name == "visit_tl.explore":
                made.close()
            if name == "visit_tl.sweeps.study":
                made(lambda run: {})
        except vt.VisitError as error:
            assert len(str(error)) < 1500
        except Exception as error:
            raw.append(f"{argument}={type(value).__name__} (number {number}): {error!r}")
    return raw


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        made = things()
        found = {name: raw_errors(name, made) for name in CHECKED}
        os.chdir("/")
    print(json.dumps(found))
