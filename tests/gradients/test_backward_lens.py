"""What Backward Lens reads: words, ranks and norms, and what it leaves untouched."""

import math

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import MAKERS, made
from visit_tl import ArgumentValueError, GraphError, InputError, ModelView
from visit_tl.causal import kl, log_probability, logit_difference
from visit_tl.gradients.norms_by_segment import segments_of

PROMPT = "a b c d e ab cd"


def test_words_are_those_of_the_vectors_through_the_lens(model):
    view = ModelView(model)
    lens = vt.backward_lens(model, PROMPT, "a", k=3)
    for matrix, which in (("W_in", "inputs"), ("W_out", "deltas"), ("W_Q", "inputs"),
                          ("W_O", "deltas")):  # fmt: skip
        found = lens.matrices[matrix]
        assert found.reads == which
        for i, layer in enumerate(lens.layers):
            vectors = getattr(lens.factors(layer, matrix), which)
            deltas = lens.factors(layer, matrix).deltas
            for j in range(len(lens.tokens)):
                assert found.norms[i, j] == pytest.approx(float(deltas[j].norm()), rel=1e-5)
                if not vectors[j].any():
                    assert found.ranks[i, j] == -1
                    continue
                unit = vectors[j] / vectors[j].norm()
                logits = view.final_norm(unit[None]) @ view.W_U
                logits = logits[0] if view.b_U is None else logits[0] + view.b_U
                if view.output_transform is not None:
                    logits = view.output_transform(logits)
                assert found.ranks[i, j] == int((logits > logits[lens.target_id]).sum())
                order = logits.argsort(descending=True)[:3].tolist()
                assert lens.top[matrix][i][j] == [view.tokens.text(t) for t in order]
                worst = logits.argsort()[:3].tolist()
                assert lens.bottom[matrix][i][j] == [view.tokens.text(t) for t in worst]


def test_without_normalising_the_vectors_themselves_are_read():
    model = made("gpt2")
    plain, unit = (vt.backward_lens(model, PROMPT, "a", normalise=n) for n in (False, True))
    assert plain.norms["W_out"] == pytest.approx(unit.norms["W_out"])
    view = ModelView(model)
    delta = plain.factors(0, "W_out").deltas[-1]
    own = vt.read(view, delta[None], [plain.target_id])
    assert plain.ranks["W_out"][0, -1] == int(own.target_ranks[0, 0])


def test_the_model_is_afterwards_as_it_was(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    chosen = next(iter(model.parameters()))
    chosen.requires_grad_(True)
    chosen.grad = torch.ones_like(chosen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in model.hook_dict.values())
    state = torch.get_rng_state()
    vt.backward_lens(model, PROMPT, "a", check="all")
    vt.reversed_attention(model, PROMPT, "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert hooks == sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in model.hook_dict.values())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()].count(True) == 1
    assert torch.equal(chosen.grad, torch.ones_like(chosen))
    assert all(p.grad is None for p in model.parameters() if p is not chosen)
    chosen.grad = None
    for parameter in model.parameters():
        parameter.requires_grad_(True)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_mode_of_torch_does_not_matter(name, mode):
    expected = vt.backward_lens(made(name), PROMPT, "a")
    with mode():
        inside = MAKERS[name]()
        found = vt.backward_lens(inside, PROMPT, "a")
        maps = vt.reversed_attention(inside, PROMPT, "a")
    assert found.norms["W_out"] == pytest.approx(expected.norms["W_out"], rel=1e-5)
    assert maps.norms == pytest.approx(vt.reversed_attention(made(name), PROMPT, "a").norms)


def test_a_metric_stands_in_the_place_of_the_loss(model):
    loss = vt.backward_lens(model, PROMPT, "a")
    metric = vt.backward_lens(model, PROMPT, log_probability("a"))
    assert metric.is_metric and not loss.is_metric
    assert metric.loss == pytest.approx(-loss.loss, abs=1e-6)
    assert metric.target_id == loss.target_id and metric.target_given
    ours = metric.factors(0, "W_out").deltas
    assert torch.allclose(ours, -loss.factors(0, "W_out").deltas, atol=1e-7)
    differing = vt.backward_lens(model, PROMPT, logit_difference("a", "b"))
    assert differing.target == "a" and differing.metric.startswith("logit_difference")


def test_without_a_target_the_models_own_prediction_is_taken(model):
    lens = vt.backward_lens(model, PROMPT)
    with torch.no_grad():
        expected = int(model(torch.tensor([lens.token_ids]))[0, -1].argmax())
    assert lens.target_id == expected and not lens.target_given


def test_of_a_target_of_several_tokens_the_first_is_taken_and_said():
    with pytest.warns(UserWarning, match=r"is 2 tokens of .*the first, 'a'"):
        lens = vt.backward_lens(made("gpt2"), PROMPT, "ab")
    assert lens.target == "a"


def test_a_prompt_of_one_token_has_gradients(model):
    lens = vt.backward_lens(model, [1], 2, check="all")
    assert lens.norms["W_out"].shape == (2, 1) and (lens.norms["W_out"] > 0).all()
    # One token attends to itself alone: queries and keys have none.
    assert lens.norms["W_Q"] == pytest.approx(np.zeros((2, 1)), abs=1e-7)
    found = vt.reversed_attention(model, [1], 2)
    assert not found.norms.any() or found.norms.max() < 1e-6


def test_an_earlier_position_leaves_later_tokens_without_gradients(model):
    lens = vt.backward_lens(model, PROMPT, "a", position=3)
    assert not lens.norms["W_out"][:, 4:].any()
    assert lens.position == 3
    assert (lens.ranks["W_out"][:, 4:] == -1).all()


def test_only_the_positions_asked_for_are_read():
    lens = vt.backward_lens(made("gpt2"), PROMPT, "a", positions=[-1, 0])
    assert lens.positions == (0, len(lens.tokens) - 1)
    assert lens.norms["W_out"].shape == (2, 2)
    assert len(lens.factors(0, "W_in").inputs) == len(lens.tokens)


def test_a_metric_without_a_gradient_says_so():
    with pytest.raises(InputError, match="metric has no gradient"):
        vt.backward_lens(made("gpt2"), PROMPT, lambda logits: logits[0, -1, 3].item())
    with pytest.raises(InputError, match="one number is needed"):
        vt.reversed_attention(made("gpt2"), PROMPT, lambda logits: logits[0, -1])


def test_a_metric_of_the_clean_run_itself_has_gradient_zero():
    lens = vt.backward_lens(made("gpt2"), PROMPT, kl())
    assert lens.loss == pytest.approx(0, abs=1e-6)
    assert lens.norms["W_out"].max() < 1e-5


def test_a_gradient_that_overflows_is_named():
    with pytest.raises(InputError, match="of .* is not finite"):
        vt.backward_lens(
            made("gpt2"), PROMPT, lambda logits: logits[0, -1, 3].float() * 1e38 * 1e38
        )


def test_half_precision_that_overflows_says_what_to_do():
    model = MAKERS["gpt2"]().to(torch.float16)
    with pytest.raises(InputError, match="load the model in float32"):
        vt.backward_lens(model, PROMPT, lambda logits: logits[0, -1, 3].float() * 1e9)


class Quantised(torch.nn.Module):
    """A linear layer that keeps its weight as integers, as libraries for quantisation do."""

    def __init__(self, linear):
        super().__init__()
        self.scale = float(linear.weight.detach().abs().max()) / 127
        weight = (linear.weight / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = None

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * self.scale).T


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="a bridge wraps whatever layer a model has")
def test_a_quantised_weight_is_named():
    hf = tiny.hf_llama()
    hf.model.layers[1].mlp.down_proj = Quantised(hf.model.layers[1].mlp.down_proj)
    with pytest.raises(vt.ModelError, match=r"down_proj of .* is quantised"):
        vt.backward_lens(tiny.bridged(hf), PROMPT, "a", layers=[1])


def test_targets_that_are_none_are_refused():
    with pytest.raises(InputError, match="target must be a token, as text or as id, or a metric"):
        vt.backward_lens(made("gpt2"), PROMPT, ["a", "b"])
    with pytest.raises(ArgumentValueError):
        vt.backward_lens(made("gpt2"), PROMPT, "a", layers="x")
    with pytest.raises(InputError, match="check is"):
        vt.backward_lens(made("gpt2"), PROMPT, "a", check="some")
    with pytest.raises(InputError, match="layer 9"):
        vt.backward_lens(made("gpt2"), PROMPT, "a", layers=[9])


def test_hooks_of_the_caller_act_and_are_named(model):
    double = ("blocks.0.hook_attn_out", lambda tensor, hook: tensor * 2)
    plain = vt.backward_lens(model, PROMPT, "a")
    found = vt.backward_lens(model, PROMPT, "a", fwd_hooks=[double])
    assert found.patched == ("blocks.0.hook_attn_out",) and plain.patched == ()
    assert found.loss != pytest.approx(plain.loss, abs=1e-6)


def test_hooks_that_are_not_there_and_no_positions_are_named():
    odd = [("blocks.0.hook_atn_out", lambda tensor, hook: None)]
    for call in (vt.backward_lens, vt.reversed_attention):
        with pytest.raises(InputError, match=r"no hook 'blocks.0.hook_atn_out'; did you mean"):
            call(made("gpt2"), PROMPT, "a", fwd_hooks=odd)
    with pytest.raises(InputError, match="no positions were chosen"):
        vt.backward_lens(made("gpt2"), PROMPT, "a", positions=[])


def test_a_head_is_read_through_its_own_circuits(model):
    view, lens = ModelView(model), vt.backward_lens(model, PROMPT, "a")
    table = lens.heads(0, 3, k=2)
    n = len(lens.tokens)
    assert list(table["part"]) == [p for p in ("query", "key", "value", "z") for _ in range(n)]
    weights = view.weights(0)
    z = lens.factors(0, "W_O").inputs.view(n, 4, -1)[-1, 3] @ weights.W_O[3]
    row = table[(table["part"] == "z") & (table["position"] == n - 1)].iloc[0]
    assert row["norm"] == pytest.approx(float(z.norm()), rel=1e-5)
    own = vt.read(view, (z / z.norm())[None], [lens.target_id], k=2)
    assert row["rank"] == int(own.target_ranks[0, 0])
    own_kv = 3 if weights.W_K.shape[0] == 4 else 1
    dq = lens.factors(0, "W_Q").deltas.view(n, 4, -1)[-1, 3] @ weights.W_K[own_kv].T
    row = table[(table["part"] == "query") & (table["position"] == n - 1)].iloc[0]
    assert row["norm"] == pytest.approx(float(dq.norm()), rel=1e-4, abs=1e-9)


def test_gradients_go_onto_the_nodes_of_a_graph(model):
    lens = vt.backward_lens(model, PROMPT, "a")
    graph = lens.onto(vt.flow_graph(model, PROMPT, target="a"))
    head = next(node for node in graph if node.kind == "head")
    z = lens.by_state[head.layer]["z"][graph.position, head.id.head]
    assert head.gradient.norm == pytest.approx(float(z.norm()), rel=1e-5)
    post = graph["L1.resid_post"].gradient
    delta = lens.by_state[1]["resid_post"][-1]
    own = vt.read(ModelView(model), (delta / delta.norm())[None], [graph.target_id])
    assert post.rank == int(own.target_ranks[0, 0])
    assert [t.id for t in post.bottom] == own.bottom_ids[0].tolist()
    assert graph["logits"].gradient is None
    with pytest.raises(GraphError, match="take them of the graph's prompt"):
        lens.onto(vt.flow_graph(model, "a b c"))


def test_the_gradient_at_the_last_state_points_away_from_the_target():
    """Lemma 5.1: before the final norm the gradient is (p - onehot) D^T, here with any norm."""
    model = made("native")
    lens = vt.backward_lens(model, PROMPT, "a")
    view = ModelView(model)
    delta = lens.by_state[1]["resid_post"][-1]
    with torch.no_grad():
        cache = model.run_with_cache(torch.tensor([lens.token_ids]))[1]
    x = cache["blocks.1.hook_resid_post"][0, -1].clone().requires_grad_()
    logits = view.final_norm(x[None])[0] @ view.W_U
    logits = logits if view.b_U is None else logits + view.b_U
    p = logits.softmax(-1).detach()
    p[lens.target_id] -= 1
    by_hand = torch.autograd.grad(logits, x, p)[0]
    assert torch.allclose(delta, by_hand, atol=1e-6)


def test_cosines_of_layers_are_those_of_the_vectors(model):
    lens = vt.backward_lens(model, PROMPT, "a")
    table = vt.gradients.similarity(lens)
    one, other = (lens.factors(i, "W_out").deltas[-1] for i in (0, 1))
    assert table.loc[0, 1] == pytest.approx(
        float(torch.cosine_similarity(one, other, dim=0)), abs=1e-6
    )
    assert table.loc[0, 0] == pytest.approx(1)
    assert math.isnan(vt.gradients.similarity(lens, position=0).loc[1, 1])
    with pytest.raises(InputError, match="outside the prompt"):
        vt.gradients.similarity(lens, position=99)


def test_segments_follow_the_subject():
    view = ModelView(made("gpt2"))
    tokens = view.tokens.encode("a b c d e", None)
    names = segments_of(view, tokens, " b c")
    skipped = len(tokens.ids) - 5
    assert names[skipped:] == [
        "before subject", "subject first", "subject last", "after subject", "last token"
    ]  # fmt: skip
    assert names[:skipped] == [None] * skipped
    with pytest.raises(InputError, match="is not found"):
        segments_of(view, tokens, "zz")


def test_summaries_by_segment_are_means_over_prompts():
    model = made("gpt2")
    facts = [("a b c d", "b", " e"), ("a d c e", "d", " a")]
    table = vt.gradients.segment_summary(model, facts, verbose=False)
    row = table[(table.matrix == "W_out") & (table.layer == 0) & (table.segment == "last token")]
    norms = [float(vt.backward_lens(model, p, t).norms["W_out"][0, -1]) for p, _, t in facts]
    assert float(row["norm"].iloc[0]) == pytest.approx(np.mean(norms), rel=1e-5)
    assert float(row["norm_se"].iloc[0]) == pytest.approx(np.std(norms, ddof=1) / 2**0.5, rel=1e-4)
    assert int(row["n"].iloc[0]) == 2


def test_factors_norms_words_and_ranks_are_those_of_transformer_lens():
    """The lens for the MLP of GPT-2 that TransformerLens 3.9 had."""
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    theirs = getattr(analysis, "BackwardLens", None)
    if theirs is None:
        pytest.skip("this release of TransformerLens has no BackwardLens")
    model = tiny.bridged(tiny.hf_gpt2())
    ours = vt.backward_lens(model, PROMPT, "a", normalise=False, k=3)
    found = theirs(model).analyze(PROMPT, "a", [0, 1], top_k=3)
    assert found.target_token_id == ours.target_id
    assert found.prompt_token_ids.flatten().tolist() == list(ours.token_ids)
    assert found.loss == pytest.approx(ours.loss, abs=1e-5)
    for i, layer in enumerate(found.layers):
        for matrix, result in (
            ("W_in", layer.input_projection),
            ("W_out", layer.output_projection),
        ):
            factors = ours.factors(i, matrix)
            assert torch.allclose(factors.inputs, result.factors.forward_inputs, atol=1e-6)
            assert torch.allclose(factors.deltas, result.factors.output_gradients, atol=1e-7)
            read = ours.matrices[matrix]
            lengths = read.input_norms if matrix == "W_in" else read.norms
            assert lengths[i] == pytest.approx(result.factor_norms.numpy(), rel=1e-5)
            there = ~result.zero_norm_mask.numpy()
            ranks = result.target_largest_ranks.numpy()
            assert read.ranks[i][there].tolist() == ranks[there].tolist()
            for side, ranking in (("top", result.top_ranking), ("bottom", result.bottom_ranking)):
                ids = getattr(read, f"{side}_ids")[i]
                assert ids[there].tolist() == ranking.indices.numpy()[there].tolist()
