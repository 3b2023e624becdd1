"""Every architecture, raw and folded: the laws of gradients and of reversed attention."""

import functools
import warnings

import pytest
import torch

import visit_tl as vt
from tests.architectures import ARCHITECTURES, PROMPT
from visit_tl.model.added_attention import pattern_is_used
from visit_tl.xray.conservation import tolerance

pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges to open these with")

READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]
FOLDED = [False, True]
# Largest over 21 architectures, raw and folded: gradients of weights 2.3e-7, of queries 2.7e-6.
MEASURED = 1e-5


@functools.cache
def opened(name, folded, dtype=torch.float32):
    try:
        model = ARCHITECTURES[name].bridge()
    except RuntimeError as error:
        pytest.skip(f"this release cannot open it: {error}")
    if folded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TransformerLens says what of OLMo 2 it cannot fold
            model.enable_compatibility_mode()
    model = model if dtype == torch.float32 else model.to(dtype)
    try:
        with torch.no_grad():
            model(torch.tensor([[1, 2, 3]]))
        vt.ModelView(model)
    except (RuntimeError, vt.ModelError) as error:
        # Whether such a model is refused, and how, is what other tests are about.
        pytest.skip(f"this release cannot run or open it: {error}")
    return model


@pytest.fixture(params=FOLDED, ids=["raw", "folded"])
def folded(request):
    return request.param


@pytest.mark.parametrize("name", READABLE)
def test_gradients_are_autograds_own(name, folded):
    lens = vt.backward_lens(opened(name, folded), PROMPT, "a", check="all")
    assert max(lens.errors.values()) < MEASURED
    gated = opened(name, folded).cfg.gated_mlp
    assert ("W_gate" in lens.matrices) == bool(gated)


@pytest.mark.parametrize("name", READABLE)
def test_maps_give_the_gradients_of_queries_keys_and_values(name, folded):
    found = vt.reversed_attention(opened(name, folded), PROMPT, "a")
    assert len(found.errors) == 4
    assert max(found.errors.values()) < MEASURED
    assert (found.norms > 0).all()


@pytest.mark.parametrize("name", READABLE)
def test_maps_do_not_change_when_weights_are_folded(name):
    raw, fold = (vt.reversed_attention(opened(name, f), PROMPT, "a") for f in FOLDED)
    assert fold.norms == pytest.approx(raw.norms, rel=1e-4)
    assert fold.maps() == pytest.approx(raw.maps(), abs=1e-5 * float(raw.norms.max()))


@pytest.mark.parametrize("name", READABLE)
def test_maps_follow_from_the_gradient_at_hugging_faces_own_attention(name):
    """E from the Hugging Face model alone, and the paper's formula entry by entry."""
    opened(name, False)
    hf = ARCHITECTURES[name].hf_model()
    found = vt.reversed_attention(ARCHITECTURES[name].bridge(), PROMPT, "a")
    out = hf(torch.tensor([found.token_ids]), output_attentions=True)
    with torch.no_grad():
        own = opened(name, False)(torch.tensor([found.token_ids]))[0, -1].log_softmax(-1)
    if not torch.allclose(own, out.logits[0, -1].log_softmax(-1), atol=1e-4):
        pytest.skip("this release of TransformerLens computes something else than Hugging Face")
    assert all(a.requires_grad for a in out.attentions)
    loss = -out.logits[0, -1].log_softmax(-1)[found.target_id]
    gradients = torch.autograd.grad(loss, out.attentions)
    for i, (attention, gradient) in enumerate(zip(out.attentions, gradients, strict=True)):
        A, E = attention[0].detach().double(), gradient[0].double()
        for head in range(4):
            for q in range(len(found.tokens)):
                mean = sum(A[head, q, k] * E[head, q, k] for k in range(q + 1))
                row = [A[head, q, k] * (E[head, q, k] - mean) for k in range(len(found.tokens))]
                expected = float(found.scales[i]) * torch.stack(row)
                ours = torch.as_tensor(found.map(i, head)[q]).double()
                assert torch.allclose(ours, expected, atol=1e-6 * float(found.norms.max()) + 1e-9)
        assert found.forward_maps()[i] == pytest.approx(A.numpy(), abs=1e-6)


@pytest.mark.parametrize("name", READABLE)
def test_maps_are_the_gradient_at_the_scores(name):
    """Against autograd at `hook_attn_scores`, where the model makes its attention from it."""
    model = opened(name, False)
    view = vt.ModelView(model)
    if not pattern_is_used(view) or not view.has_hook("blocks.0.attn.hook_attn_scores"):
        pytest.skip("this model does not make its attention from the scores that it shows")
    ids = model.to_tokens(PROMPT)
    caught = {}

    def catch(tensor, hook):
        caught[hook.name] = tensor

    names = [f"blocks.{i}.attn.hook_attn_scores" for i in (0, 1)]
    with torch.enable_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=[(n, catch) for n in names])
        loss = -logits[0, -1].log_softmax(-1)[view.tokens.single("a")]
        grads = torch.autograd.grad(loss, list(caught.values()))
    found = vt.reversed_attention(model, ids[0], "a")
    for i, gradient in enumerate(grads):
        expected = float(found.scales[i]) * gradient[0].numpy()
        assert found.maps()[i] == pytest.approx(
            expected, abs=1e-6 * float(found.norms.max()) + 1e-8
        )


@pytest.mark.parametrize("name", READABLE)
def test_a_small_patch_lowers_the_loss_by_what_is_foretold(name):
    model = opened(name, False)
    double = ARCHITECTURES[name].bridge().double()
    found = vt.reversed_attention(double, PROMPT, "a", layers=1)
    alpha = -1e-4 / float(found.norms.max())
    ids = model.to_tokens(PROMPT)

    def loss():
        with torch.no_grad():
            return -float(double(ids)[0, -1].log_softmax(-1)[found.target_id])

    # <E, R> with E the gradient at the attention: R is scale A o (E - rowsum), so the product is
    # the scale times the variance of E under A, summed over rows (found from R itself).
    A, R = found.forward_maps()[0].astype("float64"), found.maps()[0].astype("float64")
    with torch.no_grad():
        before = loss()
        with vt.gradients.attention_patching(double, found, alpha):
            after = loss()
    seen = A > 1e-12
    centred = [[(r[s] / a[s]) for a, r, s in zip(*rows, strict=True)]
               for rows in zip(A, R, seen, strict=True)]  # fmt: skip
    foretold = sum(
        float((a[s] * c**2).sum())
        for rows_a, rows_s, rows_c in zip(A, seen, centred, strict=True)
        for a, s, c in zip(rows_a, rows_s, rows_c, strict=True)
    ) / float(found.scales[0])
    assert after - before == pytest.approx(alpha * foretold, rel=0.05)
    assert after < before


@pytest.mark.parametrize("name", READABLE)
def test_the_laws_hold_in_bfloat16(name, folded):
    model = opened(name, folded, torch.bfloat16)
    lens = vt.backward_lens(model, PROMPT, "a", check="all")
    found = vt.reversed_attention(model, PROMPT, "a")
    limit = tolerance(vt.ModelView(model))
    assert max(lens.errors.values()) < limit / 2
    assert max(found.errors.values()) < limit
    exact = vt.reversed_attention(opened(name, folded), PROMPT, "a")
    assert found.norms == pytest.approx(exact.norms, rel=0.2, abs=0.05 * float(exact.norms.max()))
