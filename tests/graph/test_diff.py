"""What two graphs of one model do not share."""

import copy
import math
import pickle

import pytest

import visit_tl as vt
from visit_tl import GraphError
from visit_tl.graph.records import Effect

PROMPT = "a b c d"


def silence(tensor, hook):
    tensor = tensor.clone()
    tensor[:, :, 1] = 0
    return tensor


@pytest.fixture(scope="module")
def pair():
    from tests.conftest import made

    model = made("native")
    clean = vt.flow_graph(model, PROMPT, target=" b")
    hooks = [("blocks.0.attn.hook_z", silence)]
    return clean, vt.flow_graph(model, PROMPT, target=" b", fwd_hooks=hooks)


def test_a_graph_does_not_differ_from_itself(pair):
    d = pair[0].diff(pair[0])
    assert d.appeared == d.vanished == d.changed == () and d.same == len(pair[0])
    assert d.to_dataframe().empty
    assert "0 changed rank, 0 vanished, 0 appeared" in d.text()


def test_every_node_is_counted_once(pair):
    clean, patched = pair
    d = clean.diff(patched)
    old, new = {n.id for n in clean}, {n.id for n in patched}
    assert {n.id for n in d.vanished} == old - new and {n.id for n in d.appeared} == new - old
    changed = {i for i in old & new if clean[i].rank != patched[i].rank}
    assert {c.id for c in d.changed} == changed and changed
    assert d.same == len(old & new) - len(changed)
    falls = [abs(math.log10((c.after.rank + 1) / (c.before.rank + 1))) for c in d.changed]
    assert falls == sorted(falls, reverse=True)
    back = patched.diff(clean)
    assert back.appeared == d.vanished and back.vanished == d.appeared
    assert {(c.id, c.rank) for c in back.changed} == {(c.id, -c.rank) for c in d.changed}


def test_the_table_holds_both_sides(pair):
    d = pair[0].diff(pair[1])
    table = d.to_dataframe()
    assert len(table) == len(d.changed) + len(d.vanished) + len(d.appeared)
    for c in d.changed:
        assert table.loc[str(c.id), "rank_before"] == c.before.rank
        assert table.loc[str(c.id), "rank_after"] == c.after.rank
    for node in d.appeared:
        assert math.isnan(table.loc[str(node.id), "norm_before"])


def test_it_is_drawn_and_written(pair):
    d = pair[0].diff(pair[1])
    words = d.text(most=3)
    assert "patched at blocks.0.attn.hook_z" in words
    assert f"and {len(d.changed) - 3} more" in words
    assert d._repr_html_().startswith("<pre>") and "‹" not in d._repr_html_()
    falls = {c.id: c.fall for c in d.changed if c.id.kind == "head"}
    assert falls
    drawn = d.figure().data[0].z
    for node, fall in falls.items():
        assert drawn[node.layer][node.head] == pytest.approx(fall)


def test_graphs_that_do_not_compare_are_refused(pair, native):
    other = vt.flow_graph(native, PROMPT, target=" c")
    with pytest.raises(GraphError, match=r"different targets, ' b' and ' c'.*target=' b'"):
        pair[0].diff(other)
    from dataclasses import replace

    with pytest.raises(GraphError, match="different models: 2 and 3 blocks"):
        pair[0].diff(replace(pair[0], n_layers=3))


def test_features_of_different_saes_are_not_compared(native):
    from dataclasses import replace

    from tests.features.tiny_modules import module

    view = vt.ModelView(native)
    one, other = (
        vt.flow_graph(native, PROMPT, target=" b", saes=replace(module(view, "z", n=n), name=name))
        for n, name in ((24, "one"), (24, "other"))
    )
    with pytest.raises(GraphError, match=r"different SAEs at z of block 1, one \(standard, 24"):
        one.diff(other)
    plain = vt.flow_graph(native, PROMPT, target=" b")
    assert {n.kind for n in one.diff(plain).vanished} >= {"feature", "feature_error"}
    assert not one.diff(one).changed


def test_places_are_given_once_each_ready_for_hooks(native):
    graph = vt.flow_graph(native, PROMPT)
    assert graph.hook_points(["L1H0", "1.0", graph["L1H0"]]) == [
        ("blocks.1.attn.hook_z", (0, graph.position, 0))
    ]
    every = graph.hook_points()
    assert len(every) == len(set(every)) and not any("b_O" in name for name, _ in every)
    cache = native.run_with_cache(PROMPT)[1]
    for name, index in every:
        if name != "unembed.hook_out":
            assert cache[name][index] is not None
    with pytest.raises(GraphError, match="L9H9 is not in this graph"):
        graph.hook_points(["L9H9"])


def test_a_copy_knows_no_model_and_says_so(native):
    graph = vt.flow_graph(native, PROMPT)
    assert graph.source() is native
    for copied in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert copied == graph and copied.source is None
        with pytest.raises(GraphError, match="pass it as model="):
            copied.effects(lambda logits: logits.sum())


def test_causes_are_shown_where_they_were_measured(native):
    from dataclasses import replace

    graph = vt.flow_graph(native, PROMPT)
    assert "effect" not in graph.text()
    marked = {"L1H0": (0.25, Effect(-1.5, True)), "L1H1": (None, Effect(2.0, False))}
    nodes = tuple(
        replace(n, attribution=marked[str(n.id)][0], effect=marked[str(n.id)][1])
        if str(n.id) in marked
        else n
        for n in graph
    )
    shown = replace(graph, nodes=nodes)
    lines = {line.split()[0]: line.split() for line in shown.text().splitlines() if line.strip()}
    assert "+0.25" in lines["L1H0"] and "-1.5" in lines["L1H0"] and "~+2" in lines["L1H1"]
    assert shown.heads().loc["L1H0", "effect"] == -1.5
    hovers = "".join(data[1] for data in shown.figure().data[0].node.customdata)
    assert "direct logit attribution +0.25" in hovers
    assert "effect -1.5 (measured)" in hovers and "effect +2 (estimated)" in hovers
