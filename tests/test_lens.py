"""The lens beside a full softmax, the model's own logits and TransformerLens's readout."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests import tiny
from visit_tl import InputError, ModelView, Trace
from visit_tl.lens import readout as lens
from visit_tl.lens.unembed import logits as logits_of


def brute_force(view, vectors):
    """The whole [component, d_vocab] matrix, in float64, one row at a time."""
    rows = []
    for vector in vectors:
        x = view.final_norm(vector.double())
        logits = x @ view.W_U.double() + (0 if view.b_U is None else view.b_U.double())
        rows.append(logits)
    return torch.stack(rows)


def expect(view, vectors, targets, k):
    logits = brute_force(view, vectors)
    probs, log_probs = logits.softmax(-1), logits.log_softmax(-1)
    down, up = (
        logits.sort(dim=-1, descending=d, stable=True).indices[:, :k] for d in (True, False)
    )
    wanted = logits[:, targets]
    return {
        "top_ids": down,
        "top_probs": probs.gather(-1, down),
        "bottom_ids": up,
        "bottom_probs": probs.gather(-1, up),
        "entropy": -(probs * log_probs).sum(-1),
        "log_normaliser": logits.logsumexp(-1),
        "target_logits": wanted,
        "target_probs": probs[:, targets],
        "target_ranks": (logits[:, None, :] > wanted[..., None]).sum(-1),
    }


def assert_equal(readout, wanted):
    for name, value in wanted.items():
        got = getattr(readout, name)
        if value.dtype == torch.int64:
            assert torch.equal(got, value), name
        else:
            torch.testing.assert_close(got.double(), value, atol=1e-5, rtol=1e-5, msg=name)


def wide():
    """A model whose vocabulary takes several tiles."""
    return tiny.native(d_vocab=9001)


def test_reading_equals_the_full_softmax(model):
    view = ModelView(model)
    vectors = torch.randn(23, view.d_model, generator=torch.Generator().manual_seed(1)) * 3
    readout = lens.read(view, vectors, [0, 7, tiny.D_VOCAB - 1], k=6)
    assert_equal(readout, expect(view, vectors, [0, 7, tiny.D_VOCAB - 1], 6))


def test_tiles_and_row_blocks_do_not_change_what_is_read(model, monkeypatch):
    view = ModelView(model)
    vectors = torch.randn(17, view.d_model, generator=torch.Generator().manual_seed(2))
    monkeypatch.setenv("VISIT_TL_READOUT", "torch:4x7")
    assert_equal(lens.read(view, vectors, [3, 50], k=9), expect(view, vectors, [3, 50], 9))


def test_reading_the_last_resid_post_is_the_models_own_distribution(model):
    view = ModelView(model)
    trace = Trace.run(view, view.tokens.encode("a b c", None))
    readout = lens.read(view, trace.layers[1].resid_post[None], k=tiny.D_VOCAB)
    own = trace.logits.softmax(-1)
    torch.testing.assert_close(readout.top_probs[0], own[readout.top_ids[0]], atol=1e-6, rtol=1e-5)


def test_reading_equals_transformer_lens_logit_readout(model):
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    view = ModelView(model)
    vectors = torch.randn(31, view.d_model, generator=torch.Generator().manual_seed(3)) * 2
    ours = lens.read(view, vectors, [5, 11], k=4)
    top = analysis.logit_readout(model, vectors, top_k=4, return_type="probs")
    aimed = analysis.logit_readout(model, vectors, targets=[5, 11], return_type="probs")
    assert torch.equal(ours.top_ids, top.top_ids)
    assert torch.equal(ours.target_ranks, aimed.target_ranks)
    torch.testing.assert_close(ours.top_probs, top.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.target_probs, aimed.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.entropy, top.entropy, atol=1e-4, rtol=1e-4)


def test_equal_logits_are_ordered_by_lower_id_and_rank_alike():
    view = ModelView(tiny.hand_set())
    readout = lens.read(view, torch.tensor([[1.0, 2.0, 2.0, 1.0]]), [1, 2, 0, 3], k=4)
    assert readout.top_ids.tolist() == [[1, 2, 0, 3]]
    assert readout.bottom_ids.tolist() == [[0, 3, 1, 2]]
    assert readout.target_ranks.tolist() == [[0, 0, 2, 2]]


def test_each_vector_may_have_targets_of_its_own(model):
    view = ModelView(model)
    vectors = torch.randn(4, view.d_model, generator=torch.Generator().manual_seed(4)) * 2
    asked = torch.tensor([[3, 50, 7], [9, -1, 3], [-1, -1, -1], [-1, 2, -1]])
    readout = lens.read(view, vectors, asked, k=2)
    assert torch.equal(readout.target_ids, asked)
    for row, column in (asked >= 0).nonzero().tolist():
        alone = lens.read(view, vectors, [int(asked[row, column])], k=2)
        for name in ("target_logits", "target_probs", "target_ranks"):
            assert getattr(readout, name)[row, column] == getattr(alone, name)[row, 0], name
    none = asked < 0
    assert (readout.target_ranks[none] == -1).all()
    assert readout.target_logits[none].isnan().all()
    assert readout.target_probs[none].isnan().all()


@pytest.mark.parametrize("kernel", ["torch:4x7", "torch:256x2048", "torch:4x16:threads"])
def test_reading_only_the_targets_gives_the_same_to_the_bit(model, monkeypatch, kernel):
    monkeypatch.setenv("VISIT_TL_READOUT", kernel)
    view = ModelView(model)
    vectors = torch.randn(17, view.d_model, generator=torch.Generator().manual_seed(6)) * 2
    asked = torch.randint(-1, view.d_vocab, (17, 2), generator=torch.Generator().manual_seed(7))
    whole, part = lens.read(view, vectors, asked, k=3), lens.read_targets(view, vectors, asked)
    for name, values in vars(part).items():
        assert torch.equal(values.nan_to_num(9), getattr(whole, name).nan_to_num(9)), name
    with pytest.raises(InputError, match="target 99 is outside 0..59"):
        lens.read_targets(view, vectors, torch.full((17, 1), 99))


def test_a_vector_reads_the_same_to_the_bit_in_any_company():
    view = ModelView(wide())
    vectors = torch.randn(300, view.d_model, generator=torch.Generator().manual_seed(5))
    whole = lens.read(view, vectors, [17], k=5)
    for chosen in ([0], [299], [3, 250], list(range(40)), list(range(299, 0, -2))):
        part = lens.read(view, vectors[chosen], [17], k=5)
        for name in ("top_ids", "top_probs", "bottom_ids", "entropy", "target_logits"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[chosen]), (name, chosen)


def test_tokens_with_one_and_the_same_column_have_one_rank_wherever_their_tiles_are():
    view = ModelView(wide())
    twins = [5, 1200, 4095, 4096, 5000, 8999]
    view.W_U[:, twins] = view.W_U[:, twins[:1]].clone()
    view.b_U = None
    vectors = torch.randn(50, view.d_model, generator=torch.Generator().manual_seed(6))
    ranks = lens.read(view, vectors, twins, k=2).target_ranks
    assert (ranks == ranks[:, :1]).all()
    logits = logits_of(view, view.final_norm(vectors))
    assert torch.equal(ranks[:, 0], (logits > logits[:, 5:6]).sum(-1))


@pytest.mark.parametrize("tile", [2, 3, 5, 64])
def test_ties_at_the_edge_of_k_go_to_the_lower_id_whatever_the_tiles(tile, monkeypatch):
    model = tiny.native(normalization_type=None)
    view = ModelView(model)
    with torch.no_grad():
        model.unembed.original_component.weight.zero_()
        model.unembed.original_component.bias.zero_()
    view = ModelView(model)
    monkeypatch.setenv("VISIT_TL_READOUT", f"torch:512x{tile}")
    readout = lens.read(view, torch.ones(2, view.d_model), [40], k=5)
    assert readout.top_ids.tolist() == readout.bottom_ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert readout.target_ranks.tolist() == [[0], [0]]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    k=st.integers(1, tiny.D_VOCAB),
    tile=st.sampled_from([5, 16, 60, 4096]),
)
def test_any_stack_reads_as_the_full_softmax(seed, rows, scale, k, tile):
    from tests.conftest import made

    view = ModelView(made("gpt2"))
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, view.d_model, generator=generator) * scale
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIT_TL_READOUT", f"torch:512x{tile}")
        readout = lens.read(view, vectors, [seed % tiny.D_VOCAB], k=k)
    wanted = expect(view, vectors, [seed % tiny.D_VOCAB], k)
    # In float32 two neighbours may swap; their probabilities then agree all the same.
    for name in ("top_ids", "bottom_ids", "target_ranks"):
        wanted.pop(name)
    assert_equal(readout, wanted)
    assert (readout.entropy >= 0).all()


def test_a_zero_vector_reads_as_the_bias_of_the_norm(model):
    view = ModelView(model)
    readout = lens.read(view, torch.zeros(1, view.d_model), k=3)
    assert_equal(readout, expect(view, torch.zeros(1, view.d_model), [], 3))


@pytest.mark.parametrize(
    ("vectors", "targets", "k", "message"),
    [
        (torch.zeros(0, 16), [], 5, "at least one component"),
        (torch.zeros(2, 15), [], 5, r"reads \[component, 16\]"),
        (torch.zeros(2, 16), [60], 5, r"target 60 is outside 0\.\.59"),
        (torch.zeros(2, 16), [-1], 5, r"target -1 is outside 0\.\.59"),
        (torch.zeros(2, 16), torch.tensor([[1], [60]]), 5, r"target 60 is outside 0\.\.59"),
        (torch.zeros(2, 16), torch.tensor([[1], [-2]]), 5, r"target -2 is outside 0\.\.59"),
        (torch.zeros(2, 16), [], 0, r"k must be an integer of at least 1"),
        (torch.zeros(2, 16), [], 61, r"k must be in 1\.\.60"),
    ],
)
def test_what_cannot_be_read_is_refused(native, vectors, targets, k, message):
    with pytest.raises(InputError, match=message):
        lens.read(ModelView(native), vectors, targets, k=k)
