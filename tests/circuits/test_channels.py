"""Composition scores and channels, against whole matrices, cases by hand and TransformerLens."""

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES
from visit_tl.circuits.channels.weights import head_factors, rotations
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.view.figures import channel as channel_figures

PROMPT = "a b c d a b c"
NAMES = [name for name, one in ARCHITECTURES.items() if not one.experts]


def whole_matrices(view, offset=0):
    """W_QK and W_OV of every head as d_model x d_model matrices, by loops, norms multiplied in."""
    turned = rotations(view, offset)
    found = []
    for layer in range(view.n_layers):
        weights, W_V = view.weights(layer), view.value_weights(layer)
        norm, post = view.norm(layer, "ln1"), view.norm(layer, "ln1_post")
        centre = torch.eye(view.d_model).double()
        if norm.kind == "LN":
            centre = centre - 1 / view.d_model
        gain = torch.diag(torch.ones(view.d_model) if norm.weight is None else norm.weight).double()
        before = centre @ gain
        after = centre
        if post.kind != "none":
            own = torch.ones(view.d_model) if post.weight is None else post.weight
            after = torch.diag(own).double() @ centre
        heads = []
        for h in range(view.n_heads):
            group = h // (view.n_heads // len(W_V))
            Q, K = (
                _normed(view, layer, name, matrix[i].double(), i)
                for name, matrix, i in (
                    ("q_norm", weights.W_Q, h),
                    ("k_norm", weights.W_K, h // (view.n_heads // len(weights.W_K))),
                )
            )
            if turned[layer] is not None:
                K = torch.stack([turned[layer].transpose(row) for row in K])
            QK = before @ Q @ K.T @ before.T
            OV = before @ W_V[group].double() @ weights.W_O[h].double() @ after
            heads.append((QK, OV))
        found.append(heads)
    return found


def _normed(view, layer, name, matrix, head):
    norm = view.head_norm(layer, name)
    if norm is None or norm.kind == "none" or norm.weight is None:
        return matrix
    gain = norm.weight.double()
    gain = gain if gain.numel() == view.d_head else gain.reshape(-1, view.d_head)[head]
    if norm.kind == "LN":
        matrix = matrix - matrix.mean(-1, keepdim=True)
    return matrix * gain


def looped(view, kind, offset=0):
    heads = whole_matrices(view, offset)
    grid = np.full((view.n_layers, view.n_heads) * 2, np.nan)
    for a in range(view.n_layers):
        for b in range(a + 1, view.n_layers):
            for i in range(view.n_heads):
                for j in range(view.n_heads):
                    QK, OV = heads[b][j]
                    read = {"q": QK, "k": QK.T, "v": OV}[kind]
                    wrote = heads[a][i][1]
                    score = (wrote @ read).norm() / (wrote.norm() * read.norm())
                    grid[a, i, b, j] = score
    return grid


def test_scores_are_those_of_whole_matrices(model):
    view = vt.ModelView(model)
    found = vt.circuits.composition_scores(model, verbose=False)
    for kind, grid in found.scores.items():
        np.testing.assert_allclose(grid, looped(view, kind), rtol=2e-5)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="these are bridges")
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_terms_hold_on_every_architecture(name):
    if name == "cohere-qk-norm" and tiny.RELEASE < (4,):
        pytest.skip("TransformerLens 3.9 does not open it")
    model = ARCHITECTURES[name].bridge()
    view = vt.ModelView(model)
    found = vt.circuits.composition_scores(model, verbose=False)
    normed = view.head_norm(1, "q_norm") is not None
    for kind, grid in found.scores.items():
        np.testing.assert_allclose(grid, looped(view, kind), rtol=5e-5)
        one = vt.circuits.channel(model, "L0H1", "L1H2", kind, n=2)
        assert one.score == pytest.approx(found[f"L0H1->L1H2<{kind}>"], rel=1e-4)
        if normed and kind != "v":
            with pytest.raises(vt.ModelError, match="q_norm"):
                one.in_prompt(PROMPT)
            continue
        for key in (2, None):
            used = one.in_prompt(PROMPT, query=5, key=key)
            size = abs(used.whole) + np.abs(used.terms).sum()
            assert abs(used.terms.sum() + used.rest - used.whole) <= 1e-9 * size
            assert abs(used.rest) <= 2e-4 * size


def test_scores_do_not_depend_on_how_weights_were_processed():
    for raw, folded in ((tiny.gpt2(), tiny.gpt2_folded()), (tiny.llama(), tiny.llama_folded())):
        one, other = (vt.circuits.composition_scores(m, verbose=False) for m in (raw, folded))
        for kind in "qkv":
            np.testing.assert_allclose(one.scores[kind], other.scores[kind], rtol=2e-4)


def test_scores_equal_transformer_lens_where_norms_are_folded_and_centred():
    folded = tiny.gpt2_folded()
    if not hasattr(folded, "all_composition_scores"):
        pytest.skip("this release has none")
    found = vt.circuits.composition_scores(folded, verbose=False)
    for kind in "qkv":
        theirs = folded.all_composition_scores(kind.upper())
        theirs = getattr(theirs, "scores", theirs).detach().numpy()
        np.testing.assert_allclose(np.nan_to_num(found.scores[kind]), theirs, rtol=2e-4, atol=1e-6)


def test_the_score_of_an_exact_copy_can_be_worked_out_on_paper():
    # Writer copies dimension 0 to 1; reader's queries read dimension 1 alone, its values 1 and 2.
    model = tiny.native(
        d_model=4, d_head=2, n_heads=1, n_layers=2, normalization_type=None, attn_only=False
    )
    view = vt.ModelView(model)
    zeros = {
        name: torch.zeros(getattr(view.weights(0), name).shape) for name in ("W_Q", "W_K", "W_O")
    }
    own = [{name: matrix.clone() for name, matrix in zeros.items()} for _ in range(2)]
    V = [torch.zeros(1, 4, 2), torch.zeros(1, 4, 2)]
    V[0][0, 0, 0], own[0]["W_O"][0, 0, 1] = 2.0, 3.0
    own[1]["W_Q"][0, 1, 0], own[1]["W_K"][0, 3, 0] = 5.0, 1.0
    V[1][0, 1, 0], V[1][0, 2, 1] = 1.0, 1.0
    own[1]["W_O"][0, 0, 3], own[1]["W_O"][0, 1, 2] = 1.0, 1.0

    class Fixed(vt.ModelView):
        def weights(self, layer):
            from dataclasses import replace

            return replace(super().weights(layer), **own[layer])

        def value_weights(self, layer):
            return V[layer]

    found = vt.circuits.composition_scores(Fixed(model), verbose=False)
    edge = "L0H0->L1H0<{}>".format
    assert found[edge("q")] == pytest.approx(1.0)
    assert found[edge("k")] == pytest.approx(0.0)
    assert found[edge("v")] == pytest.approx(1 / 2**0.5)
    one = vt.circuits.channel(Fixed(model), "L0H0", "L1H0", "q", n=1)
    assert one.singular_values == pytest.approx([30.0, 0.0])
    assert one.left[0] == pytest.approx([1, 0, 0, 0])
    assert one.written[0] == pytest.approx([0, 6, 0, 0])
    assert abs(one.right[0]) == pytest.approx([0, 0, 0, 1])
    assert one.shares == pytest.approx([1.0, 0.0])


def test_by_chance_the_mean_square_is_one_over_the_width():
    generator = torch.Generator().manual_seed(0)
    d, squares = 24, []
    for _ in range(400):
        A, B, P, Q = (torch.randn(d, 3, generator=generator).double() for _ in range(4))
        one, other = A @ B.T, P @ Q.T
        squares.append(float(((one @ other).norm() / (one.norm() * other.norm())) ** 2))
    assert np.mean(squares) == pytest.approx(1 / d, rel=0.05)
    native = vt.circuits.composition_scores(tiny.native(), verbose=False)
    rms = vt.circuits.composition_scores(tiny.llama(), verbose=False)
    assert native.baseline == pytest.approx(15**-0.5) and rms.baseline == pytest.approx(0.25)


@pytest.mark.parametrize("offset", [1, 5])
def test_an_offset_turns_the_keys(offset, llama):
    view = vt.ModelView(llama)
    found = vt.circuits.composition_scores(llama, offset=offset, verbose=False)
    still = vt.circuits.composition_scores(llama, verbose=False)
    for kind in "qk":
        np.testing.assert_allclose(found.scores[kind], looped(view, kind, offset), rtol=2e-5)
        assert np.nanmax(np.abs(found.scores[kind] - still.scores[kind])) > 1e-3
    np.testing.assert_array_equal(found.scores["v"], still.scores["v"])
    # The turned key is what the model scores: queries of this run times turned keys.
    ids = tuple([1 + i % 9 for i in range(offset + 1)])
    run = Trace.run(view, Prompt("", ids, False), position=offset).layers[1]
    turned = run.rotation.transpose(run.keys[0])
    assert turned.shape == run.keys[0].shape
    factors = head_factors(view, 1, rotation=rotations(view, offset)[1])
    plain = head_factors(view, 1)
    np.testing.assert_allclose(
        factors.W_K[0, 3], rotations(view, offset)[1].transpose(plain.W_K[0, 3]), rtol=1e-6
    )


def test_a_channel_sums_to_the_product_and_shares_to_one(model):
    view = vt.ModelView(model)
    heads = whole_matrices(view)
    for kind in "qkv":
        one = vt.circuits.channel(model, "L0H3", "L1H0", kind, n=3)
        QK, OV = heads[1][0]
        product = heads[0][3][1] @ {"q": QK, "k": QK.T, "v": OV}[kind]
        made = np.einsum("i,ia,ib->ab", one.singular_values, one.left, one.right)
        size = float(product.norm())
        np.testing.assert_allclose(made, product.numpy(), atol=1e-5 * size)
        assert one.shares.sum() == pytest.approx(1)
        assert len(one.words) == 3 and all(w.left and w.right for w in one.words)


def test_the_writers_term_is_what_the_score_loses_without_it(model):
    """With the norm held, the score is linear: the term is the difference without the writer."""
    view = vt.ModelView(model)
    one = vt.circuits.channel(model, "L0H1", "L1H2", "q", n=1)
    used = one.in_prompt(PROMPT, query=4, key=2)
    prompt = view.encode(PROMPT, None)
    run = Trace.run(view, prompt, position=4).layers
    head = run[0].z[1] @ view.weights(0).W_O[1]
    frozen = view.norm(1, "ln1").freeze(run[1].resid_pre)
    key = run[1].keys[2, int(view.kv_head(run[1].keys.shape[1])[2])]
    key = key if run[1].rotation is None else run[1].rotation.transpose(key)

    def score(state):
        return float(frozen.parts(state) @ view.weights(1).W_Q[2] @ key)

    lost = score(run[1].resid_pre) - score(run[1].resid_pre - head)
    assert used.whole == pytest.approx(lost, rel=1e-3, abs=1e-5)
    assert used.total == pytest.approx(float(run[1].query[2] @ key), rel=1e-5)


@pytest.mark.parametrize(
    ("writer", "reader", "kind", "match"),
    [
        ("L1H0", "L0H0", "q", "later block"),
        ("L0H1", "L0H0", "q", "later block"),
        ("L0H9", "L1H0", "q", "no L0H9 to be the writer"),
        ("L0H0", "L7H0", "q", "no L7H0 to be the reader"),
        ("m0", "L1H0", "q", "writer is a head"),
        ("L0H0", "L1H0", "z", "q, k or v"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(native, writer, reader, kind, match):
    with pytest.raises(vt.InputError, match=match):
        vt.circuits.channel(native, writer, reader, kind)


def test_more_refusals(native, llama):
    with pytest.raises(vt.InputError, match="at most 4 directions"):
        vt.circuits.channel(native, "L0H0", "L1H0", "q", n=9)
    with pytest.raises(vt.InputError, match="no rotary"):
        vt.circuits.composition_scores(native, offset=1)
    with pytest.raises(vt.InputError, match="outside"):
        vt.circuits.composition_scores(llama, offset=99)
    with pytest.raises(vt.InputError, match="q, k and v"):
        vt.circuits.composition_scores(native, kinds="x")
    one = vt.circuits.channel(llama, "L0H0", "L1H0", "k", n=1)
    with pytest.raises(vt.InputError, match="after the query"):
        one.in_prompt(PROMPT, query=2, key=3)
    with pytest.raises(vt.InputError, match="offset=0"):
        vt.circuits.channel(llama, "L0H0", "L1H0", "k", n=1, offset=2).in_prompt(PROMPT)
    found = vt.circuits.composition_scores(native, verbose=False)
    for edge in ("L0H0->L1H9<q>", "L0H0->m0", "L1H0->L2H0<v>"):
        with pytest.raises(vt.InputError, match="no composition score"):
            found[edge]
    with pytest.raises(vt.InputError, match="pairs of heads"):
        found.top(1000)


def test_edges_are_ranked_and_compared(native):
    found = vt.circuits.composition_scores(native, verbose=False)
    best = found.top(5)
    assert [found[str(e)] for e in best] == sorted(found.edges.values(), reverse=True)[:5]
    assert len(found.edges) == 3 * 16 == len(found.to_dataframe())
    frame = found.to_dataframe()
    assert frame.loc[str(best[0]), "above_chance"] == pytest.approx(
        found[str(best[0])] - found.baseline
    )
    with pytest.raises(vt.InputError, match="composition|scores are of"):
        vt.circuits.compare(found, "ioi-wang-2022")


def test_results_as_text_table_and_figure(llama):
    found = vt.circuits.composition_scores(llama, verbose=False)
    one = vt.circuits.channel(llama, "L0H1", "L1H2", "v", n=3)
    used = one.in_prompt(PROMPT)
    for result in (found, one, used):
        for theme in ("light", "dark"):
            assert result.figure(theme).data
        assert "L0H1" in str(result) or "composition" in str(result)
        assert "<pre>" in result._repr_html_()
        assert len(result.to_dataframe())
    assert str(one).count("\n") == 2 + 2 * 3
    assert f"{used.whole:.4g}" in channel_figures.use_text(used)
