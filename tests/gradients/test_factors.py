"""X^T Delta against autograd, taken in other ways than the package does it."""

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import MAKERS, made
from visit_tl import DecompositionError, InputError
from visit_tl.gradients import factors as room
from visit_tl.gradients.factors import Factors

PROMPT = "a b c d e ab cd"
# Largest relative error measured over 21 architectures, raw and folded: 2.3e-7 in float32 (with
# post-norms; 0 to the bit without), 3.5e-3 in bfloat16, 3.8e-4 in float16.
MEASURED = 1e-6


def lens_of(model, target="a", **options):
    return vt.backward_lens(model, PROMPT, target, check="all", **options)


def loss_of(model, target, position=-1):
    """-log p of a target, in the model's own precision, with gradients."""
    ids = vt.ModelView(model).tokens.encode(PROMPT, None).ids
    token = vt.ModelView(model).tokens.single(target)
    with torch.enable_grad():
        logits = model(torch.tensor([ids]))
        return -logits[0, position].log_softmax(-1)[token]


def test_the_law_holds_in_every_model(model):
    lens = lens_of(model)
    assert set(lens.errors) == {0, 1}
    assert max(lens.errors.values()) < MEASURED
    assert lens.loss == pytest.approx(float(loss_of(model, "a").detach()), abs=1e-5)


@pytest.mark.parametrize("name", [n for n in MAKERS if "folded" not in n])
@pytest.mark.parametrize("matrix", ["W_in", "W_gate", "W_out", "W_Q", "W_O"])
def test_the_gradient_foretells_a_finite_difference(name, matrix):
    """No autograd at all: the weight is moved by a small step both ways, in float64."""
    if not tiny.HAS_BRIDGE or name.startswith("hooked"):
        pytest.skip("a HookedTransformer computes in the dtype of its configuration")
    model = MAKERS[name]().double()
    lens = lens_of(model)
    if matrix not in lens.matrices:
        pytest.skip("no gate")
    part = "attn" if matrix in ("W_Q", "W_O") else "mlp"
    weight = getattr(getattr(model.blocks[1], part), matrix).detach()
    owners = {p.untyped_storage().data_ptr() for p in model.blocks[1].parameters()}
    if weight.untyped_storage().data_ptr() not in owners:
        pytest.skip("this model shows a copy of its weight, which cannot be moved")
    # transformers' Llama computes its norms and softmax in float32 whatever it is given.
    size, close = (1e-3, 1e-2) if "llama" in name else (1e-5, 2e-4)
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double() * size
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * step
            losses.append(float(loss_of(model, "a").detach()))
            weight -= sign * step
    gradient = lens.factors(1, matrix).gradient()
    flat = step.permute(1, 0, 2).flatten(1) if matrix == "W_Q" else step.flatten(0, -2)
    foretold = 2 * float((gradient.double() * flat).sum())
    assert losses[0] - losses[1] == pytest.approx(foretold, rel=close)


def hugging_face_gradients(hf, ids, target):
    """The gradients of a model that TransformerLens has never touched, by parameter."""
    with torch.enable_grad():
        loss = -hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[target]
    loss.backward()
    return {name: p.grad for name, p in hf.named_parameters()}


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="made with a bridge")
def test_factors_are_the_gradients_of_hugging_face_gpt2():
    lens = lens_of(tiny.bridged(tiny.hf_gpt2()))
    found = hugging_face_gradients(tiny.hf_gpt2(), lens.token_ids, lens.target_id)
    for layer in (0, 1):
        parts = {"W_in": "mlp.c_fc", "W_out": "mlp.c_proj", "W_O": "attn.c_proj"}
        expected = {m: found[f"transformer.h.{layer}.{n}.weight"] for m, n in parts.items()}
        fused = found[f"transformer.h.{layer}.attn.c_attn.weight"].split(16, dim=1)
        expected |= dict(zip(("W_Q", "W_K", "W_V"), fused, strict=True))
        assert set(expected) == set(lens.matrices)
        for matrix, gradient in expected.items():
            assert torch.allclose(lens.factors(layer, matrix).gradient(), gradient, atol=1e-7)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="made with a bridge")
def test_factors_are_the_gradients_of_hugging_face_llama():
    lens = lens_of(tiny.bridged(tiny.hf_llama()))
    found = hugging_face_gradients(tiny.hf_llama(), lens.token_ids, lens.target_id)
    parts = {"W_gate": "mlp.gate", "W_in": "mlp.up", "W_out": "mlp.down", "W_Q": "self_attn.q",
             "W_K": "self_attn.k", "W_V": "self_attn.v", "W_O": "self_attn.o"}  # fmt: skip
    assert set(parts) == set(lens.matrices)
    for layer in (0, 1):
        for matrix, part in parts.items():
            gradient = found[f"model.layers.{layer}.{part}_proj.weight"].T
            assert torch.allclose(lens.factors(layer, matrix).gradient(), gradient, atol=1e-7)


def test_of_the_last_block_only_the_last_position_has_a_gradient(model):
    lens = lens_of(model)
    last = lens.factors(1, "W_out")
    assert not last.deltas[:-1].any() and last.deltas[-1].any()
    assert last.rank() == 1
    assert lens.ranks["W_out"][1, :-1].tolist() == [-1] * (len(lens.tokens) - 1)
    assert lens.top["W_out"][1][0] == [] and len(lens.top["W_out"][1][-1]) == 5


def test_the_rank_of_a_gradient_is_at_most_the_number_of_positions(model):
    lens = lens_of(model)
    for layer in (0, 1):
        for matrix in lens.matrices:
            found = lens.factors(layer, matrix)
            dense = found.gradient().double()
            values = torch.linalg.svdvals(dense)
            n = min(len(values), len(found.inputs))
            assert torch.allclose(
                found.singular_values()[:n].double(),
                values[:n],
                atol=1e-6 * float(values[0]) + 1e-9,
            )
            assert found.rank() <= len(lens.tokens)
            assert found.spectral_norm() == pytest.approx(float(values[0]), rel=1e-4)


def test_a_step_on_one_token_is_the_imprint_and_the_shift(model):
    """Lemma 5.2, on a prompt whose other positions have no gradient: the last block."""
    lens = lens_of(model)
    eta = -0.1
    into, out = lens.factors(1, "W_in"), lens.factors(1, "W_out")
    x, post = into.inputs[-1], out.inputs[-1]
    assert torch.allclose(x @ (eta * into.gradient()), eta * lens.imprint(1)[-1], atol=1e-5)
    moved = post @ (eta * out.gradient())
    assert torch.allclose(moved, eta * lens.shift(1)[-1], atol=1e-5)
    # Descent moves the output against its gradient.
    assert float(torch.cosine_similarity(moved, -out.deltas[-1], dim=0)) == pytest.approx(
        1, abs=1e-5
    )


def test_a_wrong_factor_is_refused(monkeypatch):
    model = made("gpt2")
    right = room.factors_of

    def wrong(*args):
        found = dict(right(*args))
        found["W_in"] = Factors(found["W_in"].inputs, found["W_in"].deltas * 1.01)
        return found

    monkeypatch.setattr("visit_tl.gradients.lens_of_gradients.factors_of", wrong)
    with pytest.raises(DecompositionError, match=r"gradient of W_in in blocks\.1 .* X\^T Delta"):
        vt.backward_lens(model, PROMPT, "a")
    vt.backward_lens(model, PROMPT, "a", check="none")


def test_matrices_that_a_model_does_not_have_are_named():
    with pytest.raises(InputError, match="has no W_gate; it has W_in, W_out"):
        vt.backward_lens(made("gpt2"), PROMPT, "a", matrices=["W_gate"])
    with pytest.raises(InputError, match="'W_X' is no matrix"):
        vt.backward_lens(made("gpt2"), PROMPT, "a", matrices=["W_X"])
    with pytest.raises(InputError, match="no matrices were chosen"):
        vt.backward_lens(made("gpt2"), PROMPT, "a", matrices=[])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_law_holds_in_half_precision(name, dtype):
    lens = lens_of(MAKERS[name]().to(dtype))
    assert max(lens.errors.values()) < (1e-2 if dtype == torch.bfloat16 else 2e-3)
