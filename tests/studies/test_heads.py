"""Many prompts at once give what the graph and plain hooks give of one prompt."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.circuits import prompt_tokenizers
from visit_tl import InputError, ModelView, flow_graph
from visit_tl.causal.attribution.direct import attribute
from visit_tl.circuits.prompts import ioi
from visit_tl.studies import HeadScores, causes, observe


@pytest.fixture(scope="module")
def model():
    return prompt_tokenizers.model()


@pytest.fixture(scope="module")
def prompts(model):
    return ioi(model, 3)


@pytest.fixture(scope="module")
def seen(model, prompts):
    return observe(model, prompts, verbose=False)


def test_every_observation_is_what_the_graph_of_that_prompt_shows(model, prompts, seen):
    view = ModelView(model)
    for i, pair in enumerate(prompts):
        graphs = {
            token: flow_graph(model, list(pair.ids), target=token, heads=view.n_heads)
            for token in (pair.answers[0], pair.wrong[0])
        }
        shares = attribute(model, list(pair.ids), pair.answers[0], pair.wrong[0])
        heads = graphs[pair.answers[0]].of_kind("head")
        assert len(heads) == view.n_layers * view.n_heads
        for node in heads:
            at = i, node.id.layer, node.id.head
            other = graphs[pair.wrong[0]][node.id]
            assert seen["norm"][at] == pytest.approx(node.norm, rel=1e-5)
            assert seen["prob"][at] == pytest.approx(node.prob, rel=1e-4)
            assert (seen["rank"][at], seen["rank of wrong"][at]) == (node.rank, other.rank)
            last = view.d_vocab - 1
            ends = (node.rank, last - node.rank, other.rank, last - other.rank)
            assert seen["rank from an end"][at] == min(ends)
            assert seen["attribution"][at] == pytest.approx(shares[node.id], abs=1e-6)
            for key in ("IO", "S1", "S2", "END"):
                attention = node.attention[pair.positions[key]]
                assert seen[f"END to {key}"][at] == pytest.approx(attention, abs=1e-6)


def test_attention_from_other_positions_is_theirs(model, prompts, seen):
    for i, pair in enumerate(prompts):
        for query, key in (("S2", "S1"), ("S2", "S1+1"), ("S1+1", "S1")):
            graph = flow_graph(
                model, list(pair.ids), position=pair.positions[query], heads=model.cfg.n_heads
            )
            for node in graph.of_kind("head"):
                found = seen[f"{query} to {key}"][i, node.id.layer, node.id.head]
                assert found == pytest.approx(node.attention[pair.positions[key]], abs=1e-6)


def with_head(model, pair, corruption, layer, head):
    """A hook function that puts a head's z of the corrupted prompt at END."""
    end, kept = pair.positions["END"], {}

    def keep(z, hook):
        kept["z"] = z[0, end, head].clone()

    def put(z, hook):
        z = z.clone()
        z[0, end, head] = kept["z"]
        return z

    name = f"blocks.{layer}.attn.hook_z"
    with torch.no_grad():
        ids = torch.tensor([pair.corrupted[corruption].ids])
        model.run_with_hooks(ids, fwd_hooks=[(name, keep)])
    return [(name, put)]


def test_observed_with_heads_patched_is_the_graph_of_the_patched_run(model, prompts, seen):
    found = observe(model, prompts, patched=["L0H1"], corruption="flip", verbose=False)
    assert not np.allclose(found["attribution"], seen["attribution"])
    for i, pair in enumerate(prompts):
        graph = flow_graph(
            model,
            list(pair.ids),
            target=pair.answers[0],
            heads=model.cfg.n_heads,
            fwd_hooks=with_head(model, pair, "flip", 0, 1),
        )
        for node in graph.of_kind("head"):
            at = i, node.id.layer, node.id.head
            assert found["norm"][at] == pytest.approx(node.norm, rel=1e-5)
            assert found["rank"][at] == node.rank
            attention = node.attention[pair.positions["IO"]]
            assert found["END to IO"][at] == pytest.approx(attention, abs=1e-6)


def test_attributions_of_a_patched_run_are_found_as_those_of_a_run(model, prompts, seen):
    """A head patched with what it has already is no patch: both ways give the same shares."""
    own = prompts[0]
    same = replace(own, corrupted={"ABC": replace(own.corrupted["ABC"], ids=own.ids)})
    alone = replace(prompts, pairs=(same,))
    found = observe(model, alone, patched=["L0H0", "L1H1"], verbose=False)
    assert found["attribution"][0] == pytest.approx(seen["attribution"][0], abs=1e-5)


def test_only_heads_of_the_model_are_patched_while_observing(model, prompts):
    with pytest.raises(InputError, match="there is no L9H6 to be patched at END"):
        observe(model, prompts, patched=["L9H6"], verbose=False)
    with pytest.raises(InputError, match="without a position; got L0.mlp_out"):
        observe(model, prompts, patched=["L0.mlp_out"], verbose=False)
    with pytest.raises(InputError, match="no corruption 'XYZ'"):
        observe(model, prompts, patched=["L0H0"], corruption="XYZ", verbose=False)


def by_hand(model, pair, corruption, name, layer, head):
    """The logit difference with one head's z replaced at one position, less that without."""
    at, hook = pair.positions[name], f"blocks.{layer}.attn.hook_z"
    kept = {}

    def keep(z, hook):
        kept["z"] = z[0, at].clone()

    def put(z, hook):
        z = z.clone()
        rows = z[0, at].view(model.cfg.n_heads, -1)
        rows[head] = kept["z"].view(model.cfg.n_heads, -1)[head]
        z[0, at] = rows.view(z[0, at].shape)
        return z

    def difference(ids, hooks):
        with torch.no_grad():
            logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0, -1]
        return float(logits[pair.answers[0]] - logits[pair.wrong[0]])

    difference(pair.corrupted[corruption].ids, [(hook, keep)])
    return difference(pair.ids, [(hook, put)]) - difference(pair.ids, [])


@pytest.mark.parametrize("corruption", ["ABC", "flip"])
def test_effects_are_those_of_plain_hooks(model, prompts, corruption):
    chosen = {"END": None, "S2": ["L0H1", "L1H0"]}
    found = causes(model, prompts, chosen, corruption=corruption, verbose=False)
    assert found.names == ("effect at END", "effect at S2")
    for i, pair in enumerate(prompts):
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                truth = by_hand(model, pair, corruption, "END", layer, head)
                assert found["effect at END"][i, layer, head] == pytest.approx(truth, abs=1e-4)
                value = found["effect at S2"][i, layer, head]
                if (layer, head) in ((0, 1), (1, 0)):
                    truth = by_hand(model, pair, corruption, "S2", layer, head)
                    assert value == pytest.approx(truth, abs=1e-4)
                else:
                    assert math.isnan(value)


def test_one_position_means_all_heads_there(model, prompts):
    alone = causes(model, prompts[:1], "S1+1", verbose=False)
    assert alone.names == ("effect at S1+1",)
    assert np.isfinite(alone["effect at S1+1"]).all()
    assert np.abs(alone["effect at S1+1"]).max() > 0


def test_ctrl_c_keeps_the_prompts_that_are_done(model, prompts, monkeypatch):
    # The package's own name `causes` is the function.
    module = importlib.import_module("visit_tl.studies.causes")
    own, calls = module.effects, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        return replace(own(*args, **kwargs), complete=len(calls) < 3)

    monkeypatch.setattr(module, "effects", interrupted)
    found = causes(model, prompts, {"END": ["L0H0"]}, verbose=False)
    assert len(found) == 2
    calls += [1, 1]
    with pytest.raises(InputError, match="before the first prompt was done"):
        causes(model, prompts, {"END": ["L0H0"]}, verbose=False)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("S3", "positions of the prompts, IO, S1, S1\\+1, S2, END; got S3"),
        ({}, "got none"),
        ({"END": ["L0H0@3"]}, "without a position; got L0H0@3"),
        ({"END": ["L0.mlp_out"]}, "named like L9H6 and without a position; got L0.mlp_out"),
        ({"S2": []}, "no head is named to be patched at S2; None would be all"),
        ({"END": ["L9H6"]}, r"blocks of \d heads, so there is no L9H6 to be patched at END"),
    ],
)
def test_what_cannot_be_patched_is_named(model, prompts, at, words):
    with pytest.raises(InputError, match=words):
        causes(model, prompts, at, verbose=False)


def test_a_corruption_that_is_not_there_is_named(model, prompts):
    with pytest.raises(InputError, match="no corruption 'XYZ'; they have ABC, flip, random-S2"):
        causes(model, prompts, corruption="XYZ", verbose=False)


def test_a_look_at_a_position_that_is_not_there_is_named(model, prompts):
    with pytest.raises(InputError, match="no position S3; they have IO, S1"):
        observe(model, prompts, looks=[("END", "S3")], verbose=False)


# --- the record ----------------------------------------------------------------------------------


def record(**values):
    return HeadScores("m", {name: np.asarray(v, dtype=float) for name, v in values.items()})


def test_means_errors_and_medians_are_over_prompts():
    scores = record(rank=[[[0, 9]], [[2, 9]], [[100, 9]]], norm=[[[1, 4]], [[2, 4]], [[3, 4]]])
    assert scores.mean("norm").tolist() == [[2.0, 4.0]]
    assert scores.error("norm").tolist() == [[pytest.approx(1 / math.sqrt(3)), 0.0]]
    assert scores.median("rank").tolist() == [[2.0, 9.0]]
    table = scores.to_dataframe()
    assert list(table.index) == ["L0H0", "L0H1"]
    assert list(table.columns) == ["rank", "norm", "± norm"]
    assert table.loc["L0H0", "rank"] == 2 and table.loc["L0H1", "norm"] == 4


def test_one_prompt_has_no_error():
    assert np.isnan(record(norm=[[[1, 2]]]).error("norm")).all()


def test_top_takes_the_largest_and_never_what_was_not_measured():
    scores = record(effect=[[[-3, 2], [math.nan, 2]]])
    assert [str(i) for i in scores.top("effect", 2)] == ["L0H1", "L1H1"]
    assert [str(i) for i in scores.top("effect", 1, absolute=True)] == ["L0H0"]
    with pytest.raises(InputError, match=r"k is 4, but only 3 heads have the score 'effect'"):
        scores.top("effect", 4)


def test_where_keeps_prompts():
    scores = record(norm=[[[1]], [[2]], [[3]]])
    assert scores.where([True, False, True]).mean("norm").tolist() == [[2.0]]
    for wrong in ([True], [False] * 3):
        with pytest.raises(InputError, match="each of the 3 prompts"):
            scores.where(wrong)


def test_only_scores_of_the_same_prompts_are_joined():
    one, two = record(norm=[[[1, 2]]]), record(prob=[[[3, 4]]])
    assert one.joined(two).names == ("norm", "prob")
    with pytest.raises(InputError, match="both have norm"):
        one.joined(one)
    with pytest.raises(InputError, match="of different runs"):
        one.joined(record(prob=[[[3, 4]], [[3, 4]]]))
    with pytest.raises(InputError, match="of one shape, got"):
        record(a=[[[1]]], b=[[[1, 2]]])
    with pytest.raises(InputError, match="no score 'x'; there are norm"):
        one["x"]
