"""What fails names its likely cause: each known cause is planted in a small Llama."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import visit_tl as vt
from tests import tiny
from visit_tl import DecompositionError
from visit_tl.model.hook_shapes import require_shapes

pytest.importorskip("transformer_lens.model_bridge")

IDS = [0, 1, 2, 12, 3, 13, 4]


class Times(nn.Linear):
    def forward(self, x):
        return 0.5 * super().forward(x)


class ThenNorm(nn.Linear):
    def forward(self, x):
        out = super().forward(x)
        return F.rms_norm(out, out.shape[-1:])


class BitLinear(nn.Linear):
    """Weights are rounded when the layer is called, as in BitNet."""

    def forward(self, x):
        scale = self.weight.abs().mean()
        return F.linear(x, (self.weight / scale).round().clamp(-1, 1) * scale)


class Gated(nn.Linear):
    def forward(self, x):
        return super().forward(x) * torch.sigmoid(x.mean(-1, keepdim=True) + self.weight[:, 0])


class Capped(nn.Linear):
    def forward(self, x):
        return 5 * torch.tanh(super().forward(x) / 5)


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def replaced(module, kind):
    """The same weights in a layer that does something more."""
    module.__class__ = kind
    return module


def broken(hf):
    """The refusal of a graph of a model; it names a cause."""
    model = tiny.bridged(hf).eval() if not hasattr(hf, "blocks") else hf
    with pytest.raises(DecompositionError, match="; likely cause: ") as raised:
        vt.flow_graph(model, IDS)
    return str(raised.value)


@pytest.mark.parametrize(
    ("part", "kind", "said"),
    [
        ("self_attn.o_proj", Times, "a multiplier of 0.5 between them, which no configuration"),
        ("mlp.down_proj", Times, "a multiplier of 0.5 between them, which no configuration"),
        ("mlp.down_proj", ThenNorm, "an RMSNorm of the output"),
        ("mlp.down_proj", BitLinear, "quantisation: .*BitLinear.* rounds its weight"),
        ("self_attn.o_proj", BitLinear, "quantisation: .*BitLinear.* rounds its weight"),
        ("self_attn.o_proj", Gated, "does not multiply by the weight that it shows"),
    ],
)
def test_a_layer_that_does_more_than_its_weight(part, kind, said):
    hf = tiny.hf_llama()
    for layer in hf.model.layers:
        replaced(layer.get_submodule(part), kind)
    law = "attn_out" if "attn" in part else "mlp_out"
    text = broken(hf)
    assert f"= {law} is off by" in text
    assert re.search(said, text), text


def test_a_multiplier_that_the_configuration_names_in_other_words():
    hf = tiny.hf_llama()
    hf.config.strength_of_heads = 0.5
    for layer in hf.model.layers:
        replaced(layer.self_attn.o_proj, Times)
    assert "the configuration's strength_of_heads" in broken(hf)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z: z * torch.linspace(0.2, 0.8, 16), "an output gate"),
        (lambda z: F.rms_norm(z, (16,)), "a norm of all heads before W_O"),
        (lambda z: z * torch.tensor([0.5, 2.0, 3.0, 1.5]).repeat_interleave(4), "of each head"),
        (lambda z: 0.25 * z, "a multiplier of 0.25 between them"),
    ],
)
def test_something_between_the_values_and_the_heads(change, said):
    model = tiny.llama().eval()
    if not hasattr(model.blocks[0].attn, "_pre_output_projection"):
        pytest.skip("this TransformerLens has no place for it")
    model.blocks[0].attn._pre_output_projection = change
    text = broken(model)
    assert "memory values x attention = head is off by" in text and said in text


def test_a_multiplier_of_the_stream():
    hf = tiny.hf_llama()
    kind = type(hf.model.layers[0])

    class Scaled(kind):
        def forward(self, *args, **kwargs):
            return 0.7 * super().forward(*args, **kwargs)

    hf.model.layers[1].__class__ = Scaled
    text = broken(hf)
    assert "resid_pre + parts = resid_post is off by" in text
    assert "the whole is 0.7 x hook_resid_mid + 0.7 x hook_mlp_out" in text


def test_another_part_that_writes_to_the_stream():
    hf = tiny.hf_llama()
    kind = type(hf.model.layers[0])

    class Adapted(kind):
        def forward(self, hidden, *args, **kwargs):
            return super().forward(hidden, *args, **kwargs) + self.side_path(hidden).tanh()

    hf.model.layers[1].side_path = nn.Linear(16, 16)
    hf.model.layers[1].__class__ = Adapted
    assert "another part of the block writes to the stream: side_path (Linear)" in broken(hf)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Tripled, "a multiplier of the logits of 3"), (Capped, "a softcap of the logits, at about 5")],
)
def test_something_after_the_unembedding(kind, said):
    hf = tiny.hf_llama()
    replaced(hf.lm_head, kind)
    model = tiny.bridged(hf).eval()
    text = broken(model)
    assert "does not give the model's own prediction" in text and said in text
    cause = text.partition("; likely cause: ")[2]
    assert cause and cause in str(vt.check(model).reason)


def test_a_model_that_transformer_lens_cannot_run_is_no_raw_error():
    hf = tiny.hf_llama()
    kind = type(hf.model.layers[1])

    class Failing(kind):
        def forward(self, *args, **kwargs):
            raise AttributeError("no attribute 'embed_positions'")

    model = tiny.bridged(hf).eval()
    model.blocks[1].original_component.__class__ = Failing
    with pytest.raises(vt.ModelError, match="fails in TransformerLens itself, with AttributeError"):
        vt.flow_graph(model, IDS)
    assert "fails in TransformerLens itself" in str(vt.check(model).reason)


def test_a_hook_of_the_wrong_shape_is_no_raw_error():
    model = tiny.bridged(tiny.hf_llama()).eval()
    view = vt.ModelView(model)
    t = vt.Trace.run(view, view.encode(IDS, None)).layers[0]
    read = {slot: getattr(t, slot) for slot in ("query", "keys", "values", "pattern", "z")}
    require_shapes(view, read, t.hooks)
    with pytest.raises(vt.ModelError, match=r"gives pattern the shape \(2, 7\), where \(4, 7\)"):
        require_shapes(view, read | {"pattern": t.pattern[:2]}, t.hooks)
