"""Each architecture against its formula in loops, on numbers chosen by hand or at random."""

import math

import pytest
import torch
from safetensors.torch import load_file

import visit_tl as vt
from tests.features import DATA
from visit_tl.features.encoders import (
    GatedEncoder,
    JumpReLU,
    LinearEncoder,
    MatchingPursuit,
    ReLU,
    TopK,
)
from visit_tl.features.input_norm import normalised


def test_a_standard_sae_by_hand():
    module = vt.features.FeatureModule(
        architecture="standard", hook="blocks.0.hook_resid_pre", hook_out="blocks.0.hook_resid_pre",
        layer=0, d_in=2, b_in=torch.tensor([1.0, 0.0]), b_dec=torch.tensor([1.0, 0.0]),
        W_dec=torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
        encoder=LinearEncoder(
            torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]), torch.tensor([0.5, 0.0, 0.0]),
            ReLU(),
        ),
    )  # fmt: skip
    x = torch.tensor([3.0, 4.0])  # less b_dec: (2, 4)
    assert module.encode(x).tolist() == [2.5, 4.0, 0.0]
    assert module(x).tolist() == [2.5 + 1.0, 8.0]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (ReLU(), [0.0, 0.5, 2.0, 0.0]),
        (JumpReLU(torch.tensor([-3.0, 1.0, 1.0, 0.0])), [0.0, 0.0, 2.0, 0.0]),
        (JumpReLU(torch.tensor([-3.0, 1.0, 1.0, 0.0]), relu=False), [-1.0, 0.0, 2.0, 0.0]),
        (TopK(2), [0.0, 0.5, 2.0, 0.0]),
        (TopK(3), [0.0, 0.5, 2.0, 0.0]),
        (TopK(3, relu=False), [-1.0, 0.5, 2.0, 0.0]),
        (TopK(2, "magnitude", relu=False), [0.0, 0.0, 2.0, -5.0]),
    ],
)
def test_activations_by_hand(activation, expected):
    pre = torch.tensor([[-1.0, 0.5, 2.0, -5.0]])
    assert activation(pre).tolist() == [expected]


def test_a_gate_opens_by_its_own_bias():
    encoder = GatedEncoder(
        torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0.0, -2.0, 0.0]),
        torch.tensor([math.log(2.0), 0.0, 0.0]), torch.tensor([0.5, 0.0, -3.0]),
    )  # fmt: skip
    # Open, closed by its bias, open with a magnitude below 0.
    assert encoder(torch.tensor([[1.0]])).tolist() == [[2.5, 0.0, 0.0]]


def pursued(x, W_dec, threshold, most, stop):
    """Matching pursuit of one vector, step by step."""
    rest, found = x.tolist(), [0.0] * len(W_dec)
    rows = W_dec.tolist()
    for _ in range(most):
        products = [max(sum(a * b for a, b in zip(rest, row, strict=True)), 0.0) for row in rows]
        best = products.index(max(products))
        before = [value != 0 for value in found]
        found[best] += products[best]
        rest = [a - products[best] * b for a, b in zip(rest, rows[best], strict=True)]
        if stop and [value != 0 for value in found] == before:
            break
        if threshold > 0 and sum(a * a for a in rest) ** 0.5 < threshold:
            break
    return torch.tensor(found)


@pytest.mark.parametrize(
    ("threshold", "most", "stop"), [(0.5, 16, True), (0.0, 5, False), (1.0, 9, False)]
)
def test_matching_pursuit_is_that_of_each_vector_alone(threshold, most, stop):
    torch.manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(24, 8, dtype=torch.float64), dim=1)
    x = 2 * torch.randn(6, 8, dtype=torch.float64)
    found = MatchingPursuit(W_dec, threshold, most, stop)(x)
    for row, vector in zip(found, x, strict=True):
        assert torch.allclose(row, pursued(vector, W_dec, threshold, most, stop).double())


def test_norms_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0]])  # mean 2, standard deviation 1 (over n - 1)
    inner, scale, shift = normalised(x, "layer_norm")
    assert torch.allclose(inner, torch.tensor([[-1.0, 0.0, 1.0]]) / 1.00001)
    assert (scale.item(), shift.item()) == (1.0, 2.0)
    inner, scale, shift = normalised(torch.tensor([[3.0, 4.0, 0.0, 0.0]]), "constant_norm_rescale")
    assert torch.allclose(inner, torch.tensor([[1.2, 1.6, 0.0, 0.0]]))  # its norm is 2 = sqrt(4)
    assert torch.allclose(scale, torch.tensor([[2.5]])) and shift.item() == 0


def test_topk_by_norm_in_loops():
    module = vt.features.open(DATA / "topk_by_norm", dtype=torch.float64)
    W = {k: v.double() for k, v in load_file(module.path).items()}
    norms = [sum(v * v for v in row.tolist()) ** 0.5 for row in W["W_dec"]]
    x = torch.randn(16, dtype=torch.float64)
    pre = [norms[i] * float((x - W["b_dec"]) @ W["W_enc"][:, i] + W["b_enc"][i]) for i in range(64)]
    best = sorted(range(64), key=lambda i: -pre[i])[:6]
    features = module.encode(x)
    expected = torch.tensor([max(pre[i], 0.0) if i in best else 0.0 for i in range(64)])
    assert torch.allclose(features, expected.double(), atol=1e-12)
    written = W["b_dec"].clone()
    for i in best:
        written += expected[i] / norms[i] * W["W_dec"][i]
    assert torch.allclose(module(x), written, atol=1e-6)


def test_a_skip_connection_reads_the_input_as_it_is():
    module = vt.features.open(DATA / "skip_transcoder", dtype=torch.float64)
    W = {k: v.double() for k, v in load_file(module.path).items()}
    x = torch.randn(16, dtype=torch.float64)
    features = torch.stack([
        (x @ W["W_enc"][:, i] + W["b_enc"][i]).clamp(min=0) for i in range(64)
    ])  # fmt: skip
    skip = torch.stack([W["W_skip"][i] @ x for i in range(16)])
    assert torch.allclose(module.skip(x), skip)
    assert torch.allclose(module(x), features @ W["W_dec"] + W["b_dec"] + skip)
    assert torch.allclose(module.decode(features), module(x) - skip)
