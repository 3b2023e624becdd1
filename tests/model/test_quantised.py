"""Quantised linear layers: read by what they apply, or refused by name.

The layers are small ones of this file, by the layouts that libraries use: integers with a scale
for each row (bitsandbytes, torchao), packed integers without a `weight` (GPTQ, AWQ), and layers
that round their input too (LLM.int8).
"""

import pytest
import torch
from torch import nn

import visit_tl as vt
from tests import tiny
from visit_tl.model.effective import NotReadableError
from visit_tl.model.quantised import is_quantised, quantised_modules, read_quantised

pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges")

PROMPT = [0, 3, 5, 7, 9, 11]


class Int8(nn.Module):
    """Integers `[d_out, d_in]` and a scale for each output."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter((weight / scale).round().to(torch.int8), requires_grad=False)
        self.scale, self.bias = nn.Parameter(scale, requires_grad=False), linear.bias

    def applied(self):
        return self.weight.float() * self.scale.float()

    def forward(self, x):
        return nn.functional.linear(x, self.applied().to(x.dtype), self.bias)


class Packed(nn.Module):
    """Integers `[d_in, d_out]` under another name, as GPTQ keeps them."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1) / 7
        self.infeatures, self.outfeatures = linear.in_features, linear.out_features
        self.register_buffer("qweight", (weight / scale[:, None]).round().to(torch.int32).T)
        self.register_buffer("scales", scale)
        self.bias = linear.bias

    def applied(self):
        return (self.qweight.float() * self.scales.float()).T

    def forward(self, x):
        return nn.functional.linear(x, self.applied().to(x.dtype), self.bias)


class Int8Input(Int8):
    """As `Int8`, but each row of the input is rounded to 127 steps too."""

    def forward(self, x):
        step = x.abs().amax(-1, keepdim=True).clamp_min(1e-2) / 127
        return super().forward((x / step).round() * step)


class Half(Int8):
    """Computes in bfloat16, whatever the model does."""

    def forward(self, x):
        return super().forward(x.bfloat16()).to(x.dtype)


def swapped(hf, kind, *, head=False):
    for name, module in list(hf.named_modules()):
        if isinstance(module, nn.Linear) and (head or "lm_head" not in name):
            outer, _, last = name.rpartition(".")
            setattr(hf.get_submodule(outer), last, kind(module))
    return hf


def plain(hf):
    """The same model with the weights that its quantised layers apply, as plain layers."""
    for name, module in list(hf.named_modules()):
        if hasattr(module, "applied"):
            weight = module.applied()
            made = nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
            with torch.no_grad():
                made.weight.copy_(weight)
            outer, _, last = name.rpartition(".")
            setattr(hf.get_submodule(outer), last, made)
    return hf


def quantised(kind, dtype=torch.float32, **options):
    return tiny.bridged(swapped(tiny.hf_llama().to(dtype), kind, **options))


# TransformerLens cannot open a model whose unembedding has no `weight`.
@pytest.mark.parametrize(("kind", "head"), [(Int8, False), (Int8, True), (Packed, False)])
def test_a_graph_is_that_of_a_plain_model_with_the_weights_that_are_applied(kind, head):
    model = quantised(kind, head=head)
    twin = tiny.bridged(plain(swapped(tiny.hf_llama(), kind, head=head)))
    ours, theirs = vt.flow_graph(model, PROMPT), vt.flow_graph(twin, PROMPT)
    assert [n.id for n in ours] == [n.id for n in theirs]
    assert [n.norm for n in ours] == pytest.approx([n.norm for n in theirs], rel=1e-5)
    assert [e.score for e in ours.edges] == pytest.approx([e.score for e in theirs.edges], abs=1e-5)
    assert max(ours.residual_error.values()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Int8, Packed])
def test_the_weight_is_read_exactly_in_every_dtype(kind, dtype):
    torch.manual_seed(0)
    layer = kind(nn.Linear(20, 12).to(dtype))
    found = read_quantised(layer, dtype, 20)
    assert torch.equal(found.weight, layer.applied().to(dtype).float())
    torch.testing.assert_close(found.bias, layer.bias.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_check_says_what_was_read(dtype):
    report = vt.check(quantised(Int8, dtype))
    assert report.exact and report.patching.startswith("rows")
    assert ("quantised", "14 linear layers (Int8), read by what they apply") in report.facts()
    assert vt.check(tiny.llama()).quantised == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_that_rounds_its_input_is_refused_by_name(dtype):
    report = vt.check(quantised(Int8Input, dtype))
    assert "q_proj of llama (Int8Input) is quantised" in report.verdict
    assert "it rounds its input as well as its weight" in report.verdict
    with pytest.raises(vt.ModelError, match="load the model without quantisation, or as weights"):
        vt.flow_graph(quantised(Int8Input, dtype), PROMPT)


def test_a_layer_that_computes_in_another_dtype_is_refused_by_name():
    with pytest.raises(vt.ModelError, match="it computes in another dtype than the model"):
        vt.flow_graph(quantised(Half), PROMPT)


def test_a_layer_that_cannot_be_called_is_refused():
    class Broken(Int8):
        def forward(self, x):
            raise RuntimeError("no kernel for this")

    with pytest.raises(NotReadableError, match="RuntimeError: no kernel for this"):
        read_quantised(Broken(nn.Linear(4, 4)), torch.float32, 4)


def test_gradients_and_edits_of_quantised_weights_are_refused():
    model = quantised(Int8)
    with pytest.raises(vt.ModelError, match="its weight takes no gradient and cannot be changed"):
        vt.backward_lens(model, PROMPT, 5)
    with (
        pytest.raises(vt.ModelError, match="is quantised"),
        vt.gradients.shift(model, PROMPT, 5, layer=0),
    ):
        pass
    vt.reversed_attention(model, PROMPT, 5)


def test_effects_of_a_quantised_model_are_those_of_its_plain_twin():
    metric, other = vt.causal.logit_difference(5, 7), [0, 3, 6, 7, 9, 11]
    both = [
        vt.causal.effects(model, PROMPT, metric, corrupted=other, verbose=False).to_dataframe()
        for model in (
            quantised(Int8),
            tiny.bridged(plain(swapped(tiny.hf_llama(), Int8))),
        )
    ]
    assert both[0]["effect"].tolist() == pytest.approx(both[1]["effect"].tolist(), abs=1e-5)


def test_an_adapter_on_a_quantised_layer_is_read_with_it():
    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.lora_A = nn.ModuleDict({"default": nn.Linear(16, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 16, bias=False)})
            self.active_adapters = ["default"]

        def forward(self, x):
            return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    torch.manual_seed(0)
    hf = swapped(tiny.hf_llama(), Packed)
    hf.model.layers[0].self_attn.q_proj = Adapter(hf.model.layers[0].self_attn.q_proj)
    model = tiny.bridged(hf.eval())
    view = vt.ModelView(model)
    inner = hf.model.layers[0].self_attn.q_proj
    inner = getattr(inner, "original_component", inner)
    added = inner.lora_B["default"].weight @ inner.lora_A["default"].weight
    expected = (inner.base_layer.applied() + added).detach()
    found = view.weights(0).W_Q.permute(0, 2, 1).flatten(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert vt.check(model).exact and vt.check(model).adapters == ("default",)


def test_what_is_quantised_is_told_by_what_is_kept():
    linear = nn.Linear(4, 4)
    assert not is_quantised(linear) and not is_quantised(nn.Embedding(4, 4))
    assert is_quantised(Int8(linear)) and is_quantised(Packed(linear))
    small = nn.Linear(4, 4)
    small.weight = nn.Parameter(small.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert is_quantised(small)
    found = quantised_modules([("a", nn.Sequential(Int8(linear))), ("a.0", Int8(linear))])
    assert list(found.values()) == ["a.0"]
