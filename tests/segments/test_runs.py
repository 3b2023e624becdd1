"""The X-ray under the mask of segments equals runs that are written out by hand."""

import functools
import warnings

import pytest
import torch

import visit_tl as vt
from tests import plain_hooks, tiny
from tests.conftest import MAKERS, made
from visit_tl import InputError, ModelError, ModelView
from visit_tl.causal import edge_effects, effects
from visit_tl.causal.circuit.circuit_run import CircuitRun
from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.causal.residual_writes import WrittenRun
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.model.masked_runs import masked
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.segments import Segments
from visit_tl.segments.masks import additive

IDS = [3, 5, 7, 9, 11, 13, 2, 4]
OTHER = [3, 6, 7, 9, 12, 13, 2, 4]
N = len(IDS)
SPANS = [(0, 3), (3, 6)]
SEGMENTS = Segments.from_spans(SPANS)
BRIDGED: list[str] = []
if tiny.HAS_BRIDGE:
    from tests.architectures import ARCHITECTURES
    from tests.architectures import READABLE as BRIDGED

# What has no cache of keys and values in its blocks: all positions are computed again.
WITHOUT_PAST = {"native", "falcon-rw"} if tiny.RELEASE < (4,) else {"native"}
if not tiny.HAS_BRIDGE:
    WITHOUT_PAST = set()


WINDOWS = ("sliding_window", "window_size")


def has_window(name):
    return any(key in ARCHITECTURES[name].settings for key in WINDOWS)


@functools.cache
def opened(name):
    if name in MAKERS:
        return made(name)
    settings = ARCHITECTURES[name].settings
    # With windows as long as the context; the next tests are of short ones.
    one = ARCHITECTURES[name]
    return one.bridge(one.hf_model(**{key: 32 for key in WINDOWS if key in settings}))


def metric(logits):
    return logits[0, -1, 5] - logits[0, -1, 9]


def logits_of(model, ids=IDS, segments=SEGMENTS):
    view = ModelView(model)
    return view.run(torch.tensor([ids]), [], segments)[0]


def patterns_of(model, ids=IDS, segments=SEGMENTS):
    kept = []
    view = ModelView(model)
    hooks = [
        (f"blocks.{i}.attn.hook_pattern", lambda tensor, hook: kept.append(tensor[0].float()))
        for i in range(view.n_layers)
    ]
    view.run(torch.tensor([ids]), hooks, segments)
    return torch.stack(kept)


# --- the mask -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*MAKERS, *BRIDGED}))
def test_attention_is_zero_where_the_mask_hides_and_rows_sum_to_one(name):
    found = patterns_of(opened(name))
    mask = SEGMENTS.mask(N)[0, 0]
    assert bool((found[:, :, ~mask] == 0).all())
    assert bool((found[:, :, mask] > 0).all())
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted({*MAKERS, *BRIDGED}))
def test_segments_of_one_token_are_the_models_own_causal_attention_to_the_bit(name):
    single = Segments.from_spans([(i, i + 1) for i in range(N)])
    own = logits_of(opened(name), segments=None)
    assert torch.equal(logits_of(opened(name), segments=single), own)


@pytest.mark.parametrize("name", sorted({*MAKERS, *BRIDGED}))
def test_a_later_segment_leaves_earlier_ones_as_they_were_and_moves_all_of_itself(name):
    own = logits_of(opened(name))
    for changed in range(3, 6):
        ids = [*IDS[:changed], 1, *IDS[changed + 1 :]]
        found = logits_of(opened(name), ids)
        assert torch.equal(found[:3], own[:3])
        assert bool((found[3:] != own[3:]).any(-1).all())


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="compares a bridge with the model inside")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("spans", [[(0, N)], SPANS, [(2, 7)]])
def test_logits_are_those_of_the_hugging_face_model_under_the_same_mask(kind, spans):
    """One segment over the whole prompt is a prefix language model."""
    hf = {"gpt2": tiny.hf_gpt2, "llama": tiny.hf_llama}[kind]()
    segments = Segments.from_spans(spans)
    mask = additive(segments.mask(N), torch.float32)
    with torch.no_grad():
        expected = hf(torch.tensor([IDS]), attention_mask=mask).logits[0]
    found = logits_of(made(kind), segments=segments)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_all_classes_agree_under_the_mask():
    if not (tiny.HAS_HOOKED and tiny.HAS_BRIDGE):
        pytest.skip("needs a release with both classes")
    for one, other in (("gpt2", "hooked-gpt2"), ("llama", "hooked-llama")):
        a, b = logits_of(made(one)), logits_of(made(other))
        torch.testing.assert_close(a.log_softmax(-1), b.log_softmax(-1), atol=2e-5, rtol=0)


def test_the_model_is_afterwards_as_it_was(model):
    def state():
        found = []
        for name, module in model.named_modules():
            found.append((name, len(module._forward_pre_hooks), len(module._forward_hooks)))
            found += [(name, key) for key in vars(module) if key == "apply_causal_mask"]
            found += [(key, id(value)) for key, value in module._buffers.items()]
        return found

    own = logits_of(model, segments=None)  # a bridge sets hooks of its own in its first run
    before = state()
    logits_of(model)
    with pytest.raises(ZeroDivisionError), masked(model, SEGMENTS):
        raise ZeroDivisionError
    assert state() == before
    assert torch.equal(logits_of(model, segments=None), own)


def test_a_hook_left_on_the_model_may_need_the_length_of_the_prompt():
    model = tiny.llama(seed=9)
    seen = []

    def last(tensor, hook):
        seen.append(tensor[0, N - 1])

    model.add_hook("blocks.0.hook_resid_pre", last)
    graph = vt.flow_graph(model, IDS, segments=SPANS)
    assert graph.segments == tuple(SPANS) and graph.patched == () and seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_run_under_the_mask(dtype):
    model = tiny.gpt2(seed=9).to(dtype)
    found = patterns_of(model)
    mask = SEGMENTS.mask(N)[0, 0]
    assert bool((found[:, :, ~mask] == 0).all()) and bool((found[:, :, mask] > 0).all())
    assert vt.flow_graph(model, IDS, segments=SPANS).segments == tuple(SPANS)


def test_inference_mode_changes_nothing(native):
    own = vt.flow_graph(native, IDS, segments=SPANS)
    model = tiny.native()
    with torch.inference_mode():
        graph = vt.flow_graph(model, IDS, segments=SPANS)
        text = vt.generate_text(tiny.llama(), IDS, 2, segments=SPANS, verbose=False)
    assert graph == own
    assert (
        text.new_ids
        == vt.generate_text(tiny.llama(), IDS, 2, segments=SPANS, verbose=False).new_ids
    )


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="the mask of a bridge is an argument")
def test_a_kernel_that_ignores_the_mask_is_refused():
    model = tiny.llama(seed=3)
    for block in model.blocks:
        block.attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}),
            with_kwargs=True,
        )
    with pytest.raises(ModelError, match=r"cannot run under the mask.*does not attend to later"):
        vt.flow_graph(model, IDS, segments=SPANS)
    vt.flow_graph(model, IDS)


@pytest.mark.parametrize("name", [n for n in BRIDGED if has_window(n)])
def test_a_prompt_longer_than_the_window_of_attention_is_refused(name):
    model = ARCHITECTURES[name].bridge()
    graph = vt.flow_graph(model, IDS[:3], segments=[(0, 2)], position=0)
    assert graph.segments == ((0, 2),)
    with pytest.raises(ModelError, match="reaches 3 tokens back, and this (prompt|run) has 8"):
        vt.flow_graph(model, IDS, segments=SPANS)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(0, N + 1)], "past the prompt"),
        ([(0, 3), (2, 5)], "overlap"),
        ([(1, 1)], "empty"),
        (lambda ids: [(0, len(ids) + 4)], "past the prompt"),
        (7, "are a list"),
        ("0:3", "are a list"),
    ],
)
def test_segments_that_do_not_fit_are_refused_by_every_call(native, segments, message):
    for call in (
        lambda: vt.flow_graph(native, IDS, segments=segments),
        lambda: vt.lens_table(native, IDS, segments=segments),
        lambda: vt.attention(native, IDS, ["L0H0"], segments=segments),
        lambda: vt.backward_lens(native, IDS, segments=segments),
        lambda: vt.reversed_attention(native, IDS, segments=segments),
        lambda: vt.causal.attribute(native, IDS, segments=segments),
        lambda: effects(native, IDS, metric, how="zero", segments=segments),
        lambda: edge_effects(native, IDS, metric, how="zero", segments=segments),
        lambda: vt.generate(native, IDS, 1, segments=segments),
        lambda: vt.generate_text(native, IDS, 1, segments=segments),
    ):
        with pytest.raises(InputError, match=message):
            call()


# --- patched runs ---------------------------------------------------------------------------------


def by_hand(model, changes):
    with masked(model, SEGMENTS):
        return plain_hooks.by_hand(model, changes, IDS)


@pytest.mark.parametrize("name", sorted({*MAKERS, *BRIDGED}))
def test_a_change_at_every_position_gives_the_logits_of_the_whole_model(name):
    if name in WITHOUT_PAST:
        warnings.simplefilter("ignore", vt.PerformanceWarning)  # pytest puts the filters back
    view = ModelView(opened(name))
    kept = KeptRun(view, view.encode(IDS, None, SEGMENTS))
    g = torch.Generator().manual_seed(0)
    runs = []
    for position in range(N):
        for layer in range(view.n_layers):
            at, width = f"blocks.{layer}", torch.randn(view.d_head, generator=g)
            runs.append([Write(f"{at}.attn.hook_z", (position, 1), width)])
            wide = torch.randn(view.d_model, generator=g)
            runs.append([Write(f"{at}.hook_resid_pre", (position,), wide)])
    runs.append([runs[0][0], runs[-2][0]])
    replay = Replay(kept)
    done = []
    for i, logits in replay.run(runs):
        torch.testing.assert_close(logits, by_hand(view.model, runs[i]), atol=2e-5, rtol=0)
        done.append(i)
    assert sorted(done) == list(range(len(runs)))
    assert replay.way == ("blocks" if name in WITHOUT_PAST else "rows")


def test_a_change_moves_the_earlier_tokens_of_its_segment(model):
    view = ModelView(model)
    kept = KeptRun(view, view.encode(IDS, None, SEGMENTS))
    assert [kept.first_reached(i) for i in range(N)] == [0, 0, 0, 3, 3, 3, 6, 7]
    one = [Write("blocks.0.hook_resid_pre", (5,), torch.ones(view.d_model))]
    warnings.simplefilter("ignore", vt.PerformanceWarning)
    ((_, logits),) = Replay(kept).run([one])
    moved = (logits != kept.logits)[0].any(-1)
    assert moved.tolist() == [False] * 3 + [True] * 5


def test_effects_of_heads_equal_runs_with_plain_hooks(model):
    warnings.simplefilter("ignore", vt.PerformanceWarning)
    view = ModelView(model)
    for position in (0, 1, 4, 7):
        found = effects(
            model, IDS, metric, how="zero", positions=[position], segments=SPANS, verbose=False
        )
        assert found.segments == tuple(SPANS)
        for node, value in zip(found.ids, found.values, strict=True):
            at = f"blocks.{node.layer}.attn.hook_z"
            change = [Write(at, (position, node.head), torch.zeros(view.d_head))]
            expected = metric(by_hand(model, change)) - metric(by_hand(model, []))
            assert value == pytest.approx(float(expected), abs=2e-5)


def test_corrupted_runs_are_under_the_mask_of_the_clean_one(model):
    warnings.simplefilter("ignore", vt.PerformanceWarning)
    found = effects(
        model, IDS, metric, nodes="resid_pre", corrupted=OTHER, positions="all",
        segments=SPANS, verbose=False,
    )  # fmt: skip
    # All of the stream before block 0 is replaced: the corrupted run itself.
    assert found.values[0] + found.clean == pytest.approx(found.corrupted, abs=1e-5)
    assert found.corrupted == pytest.approx(float(metric(logits_of(model, OTHER)[None])), abs=1e-5)


def test_all_but_one_edge_is_that_edge_cut_under_the_mask(model):
    """The two ways to patch an edge, written apart, agree."""
    warnings.simplefilter("ignore", vt.PerformanceWarning)
    view = ModelView(model)
    clean, corrupted = (WrittenRun(view, view.encode(ids, None, SEGMENTS)) for ids in (IDS, OTHER))
    reduced = CircuitRun(clean, corrupted.writes)
    edges = model_edges(shape_of(view))
    found = edge_effects(model, IDS, metric, corrupted=OTHER, segments=SPANS, verbose=False)
    for edge in edges[::7]:
        value = float(metric(reduced.logits(set(edges) - {edge}))) - found.clean
        assert value == pytest.approx(found[edge], abs=2e-5), str(edge)
    assert max(map(abs, found.values)) > 0.01


def attention_written_out(hf, spans):
    """A GPT-2's logits under a mask, from its own weight matrices."""
    c, body = hf.config, hf.transformer
    heads, width, n = c.n_head, c.n_embd // c.n_head, len(IDS)
    x = body.wte.weight[torch.tensor(IDS)] + body.wpe.weight[:n]
    for block in body.h:
        q, k, v = (block.ln_1(x) @ block.attn.c_attn.weight + block.attn.c_attn.bias).chunk(3, -1)
        z = torch.zeros_like(q)
        for h in range(heads):
            at = slice(h * width, (h + 1) * width)
            for i in range(n):
                start, end = next(((a, b) for a, b in spans if a <= i < b), (i, i + 1))
                seen = [j for j in range(n) if j <= i or start <= j < end]
                scores = torch.stack([q[i, at] @ k[j, at] / width**0.5 for j in seen])
                for share, j in zip(scores.softmax(-1), seen, strict=True):
                    z[i, at] += share * v[j, at]
        x = x + z @ block.attn.c_proj.weight + block.attn.c_proj.bias
        x = x + block.mlp(block.ln_2(x))
    return body.ln_f(x) @ hf.lm_head.weight.T


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="compares a bridge with the model inside")
def test_logits_equal_a_forward_pass_written_out_key_by_key():
    with torch.no_grad():
        expected = attention_written_out(tiny.hf_gpt2(), SPANS)
    torch.testing.assert_close(logits_of(made("gpt2")), expected, atol=1e-5, rtol=0)


# --- graphs, gradients, states --------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*MAKERS, *BRIDGED}))
def test_all_laws_hold_under_the_mask(name):
    model = opened(name)
    mask = SEGMENTS.mask(N)[0, 0]
    for position in (1, 4, 7):
        graph = vt.flow_graph(model, IDS, position=position, segments=SPANS)
        assert max(graph.residual_error.values()) < 1e-5
        seen = graph.nodes[[n.kind for n in graph.nodes].index("head")].attention
        assert [value > 0 for value in seen] == mask[position].tolist()
    assert vt.causal.attribute(model, IDS, segments=SPANS).error < 1e-5
    lens = vt.backward_lens(model, IDS, check="all", segments=SPANS)
    assert max(lens.errors.values()) < 1e-5 and lens.segments == tuple(SPANS)
    found = vt.reversed_attention(model, IDS, segments=SPANS)
    assert max(found.errors.values()) < 1e-5
    R = found.map(0, 1)
    assert bool((torch.as_tensor(R)[~mask] == 0).all())
    assert bool((torch.as_tensor(R).triu(1) != 0).any())


def test_memories_of_later_tokens_are_in_the_graph_and_can_be_followed(model):
    graph = vt.flow_graph(model, IDS, position=0, segments=SPANS, values=3)
    later = {n.id.key_position for n in graph.nodes if n.kind == "value"}
    assert later == {0, 1, 2}
    grown = vt.flow_graph(model, IDS, position=3, segments=SPANS, expand=2, values=4)
    assert {c.position for c in grown.columns} == {0, 1, 2, 4, 5}
    with pytest.raises(InputError, match="position 3 comes after"):
        vt.flow_graph(model, IDS, position=1, segments=SPANS, positions=[2, 3])
    assert vt.flow_graph(model, IDS, position=1, segments=SPANS, positions=[2]).columns


def test_a_file_keeps_the_segments_and_columns_of_later_tokens(model, tmp_path):
    graph = vt.flow_graph(model, IDS, position=3, segments=SPANS, expand=1, values=3)
    graph.save(tmp_path / "g.json")
    again = vt.FlowGraph.load(tmp_path / "g.json")
    assert again == graph and again.segments == tuple(SPANS)
    text = (tmp_path / "g.json").read_text()
    for wrong in ("[[0, 3], [2, 6]]", "[[0, 3], [3, 99]]", "[[0, 3, 4]]", "[[0, true]]", "7"):
        spelled = text.replace('"segments": [[0, 3], [3, 6]]', f'"segments": {wrong}')
        if spelled == text:
            spelled = text.replace('"segments":[[0,3],[3,6]]', f'"segments":{wrong}')
        assert spelled != text
        (tmp_path / "wrong.json").write_text(spelled)
        with pytest.raises(vt.VisitError):
            vt.FlowGraph.load(tmp_path / "wrong.json")


def test_questions_to_a_graph_are_asked_under_its_mask(model):
    warnings.simplefilter("ignore", vt.PerformanceWarning)
    graph = vt.flow_graph(model, IDS, segments=SPANS)
    causal = vt.flow_graph(model, IDS)
    shares = vt.causal.attribute(model, IDS, graph.target_id, segments=SPANS)
    assert graph.attribution().total == pytest.approx(shares.total, abs=1e-6)
    found = graph.effects(metric, how="zero", verbose=False)
    assert found.segments == tuple(SPANS)
    assert found.clean == pytest.approx(float(metric(logits_of(model)[None])), abs=1e-5)
    assert found.onto(graph).nodes[-1].effect == graph.nodes[-1].effect
    assert graph.edge_effects(metric, how="zero", verbose=False).segments == tuple(SPANS)
    assert graph.lens_table().segments == tuple(SPANS)
    for result in (found, graph.attribution(), vt.reversed_attention(model, IDS, segments=SPANS)):
        with pytest.raises(vt.VisitError, match="segments"):
            result.onto(causal)
    with pytest.raises(InputError, match="leave segments out"):
        vt.causal.graph_edge_effects(model, causal, metric, how="zero", segments=SPANS)


def test_the_lens_table_ends_in_the_models_own_prediction_under_the_mask(model):
    table = vt.lens_table(model, IDS, segments=SPANS)
    own = logits_of(model).softmax(-1)
    for position, cell in enumerate(table.cells[-1]):
        assert cell.top[0].prob == pytest.approx(float(own[position].max()), abs=1e-5)


def test_a_cache_of_the_same_run_gives_the_same_graph_and_others_are_refused(model):
    ids = torch.tensor([IDS])
    with torch.no_grad():
        _, plain = model.run_with_cache(ids)
        with masked(model, SEGMENTS):
            _, cache = model.run_with_cache(ids)
    own = vt.flow_graph(model, IDS, position=1, segments=SPANS)
    again = vt.flow_graph(model, IDS, position=1, segments=SPANS, cache=cache)
    assert [n.id for n in again.nodes] == [n.id for n in own.nodes]
    assert again.residual_error == pytest.approx(own.residual_error, abs=1e-6)
    with pytest.raises(InputError, match="pass the segments"):
        vt.flow_graph(model, IDS, position=1, cache=cache)
    with pytest.raises(InputError, match="the cache is of a causal run"):
        vt.flow_graph(model, IDS, position=1, segments=SPANS, cache=plain)


def test_several_prompts_have_segments_of_their_own(native):
    prompts = [IDS, IDS[:5], IDS[:4]]
    each = [SPANS, [(1, 4)], None]
    for graph, ids, own in zip(
        vt.flow_graphs(native, prompts, segments=each, verbose=False), prompts, each, strict=True
    ):
        assert graph == vt.flow_graph(native, ids, segments=own)
    found = vt.causal.faithfulness(
        native, [(IDS, OTHER), (OTHER, IDS)], metric, ["L0H0", "L1H1"],
        segments=[SPANS, None], verbose=False,
    )  # fmt: skip
    assert found.full[0] == pytest.approx(float(metric(logits_of(native)[None])), abs=1e-5)
    assert found.full[1] == pytest.approx(
        float(metric(logits_of(native, OTHER, None)[None])), abs=1e-5
    )
    assert found.corrupted[0] == pytest.approx(
        float(metric(logits_of(native, OTHER)[None])), abs=1e-5
    )


def test_generated_graphs_keep_the_prompts_mask_and_are_causal_after_it(model):
    graphs = vt.generate(model, IDS[:6], 3, segments=SPANS, verbose=False)
    ids = IDS[:6]
    for graph in graphs:
        assert graph.segments == tuple(SPANS)
        own = logits_of(model, ids)[-1]
        assert graph["logits"].top[0].prob == pytest.approx(float(own.softmax(-1).max()), abs=1e-5)
        ids = [*ids, int(own.argmax())]


def test_a_sweep_of_another_mask_does_not_continue_a_file(native, tmp_path):
    asked = {"how": "zero", "verbose": False, "resume": tmp_path / "sweep.json"}
    effects(native, IDS, metric, segments=SPANS, **asked)
    effects(native, IDS, metric, segments=SPANS, **asked)
    for other in (None, [(0, 2)]):
        with pytest.raises(vt.FileError):
            effects(native, IDS, metric, segments=other, **asked)
