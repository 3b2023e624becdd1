"""Which dimensions a rotary embedding pairs, where only its tables and its attention are known."""

import pytest
import torch

from visit_tl import ModelError
from visit_tl.model.rotary import Rotation, find_pairing, find_rotation

N, HEADS, D_HEAD = 6, 4, 8
ANGLES = torch.arange(N)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03])


def tables(adjacent):
    if adjacent:
        return ANGLES.cos().repeat_interleave(2, -1), ANGLES.sin().repeat_interleave(2, -1)
    return torch.cat((ANGLES.cos(),) * 2, -1), torch.cat((ANGLES.sin(),) * 2, -1)


def attention(cos, sin, adjacent, query, keys):
    turned = Rotation(cos[:, None], sin[:, None], adjacent).forward(keys)
    scores = torch.einsum("hd,jhd->hj", Rotation(cos[-1], sin[-1], adjacent).forward(query), turned)
    return (scores / D_HEAD**0.5).softmax(-1)


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("size", [1, 30])
def test_the_pairing_is_found_also_where_each_head_sees_one_key(adjacent, size):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(HEADS, D_HEAD, generator=generator) * size
    keys = torch.randn(N, HEADS, D_HEAD, generator=generator) * size
    cos, sin = tables(adjacent)
    pattern = attention(cos, sin, adjacent, query, keys)
    found, pairing = find_pairing([(cos, sin)], query, keys, pattern, len(keys) - 1, "here")
    assert pairing is adjacent and torch.equal(found[0], cos) and torch.equal(found[1], sin)


def test_the_transpose_undoes_the_turn_and_keeps_inner_products():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 3, D_HEAD, generator=generator)
    for adjacent in (False, True):
        cos, sin = tables(adjacent)
        turn = Rotation(cos[4], sin[4], adjacent)
        torch.testing.assert_close(turn.transpose(turn.forward(x)), x)
        torch.testing.assert_close((turn.forward(x) * y).sum(), (x * turn.transpose(y)).sum())
        assert find_rotation(cos[4], sin[4], x, turn.forward(x), "here").adjacent is adjacent


def test_tables_in_no_known_layout_are_refused():
    cos, sin = torch.rand(N, D_HEAD), torch.rand(N, D_HEAD)
    query, keys = torch.randn(HEADS, D_HEAD), torch.randn(N, HEADS, D_HEAD)
    with pytest.raises(ModelError, match="of here do not reproduce the model's attention"):
        find_pairing([(cos, sin)], query, keys, torch.rand(HEADS, N).softmax(-1), N - 1, "here")
    with pytest.raises(ModelError, match="do not rotate hook_q into hook_rot_q"):
        find_rotation(cos[1], sin[1], query, torch.randn(HEADS, D_HEAD), "here")


@pytest.mark.parametrize("adjacent", [False, True])
def test_of_several_tables_the_one_that_gives_the_attention_is_taken(adjacent):
    """As where a model hands one angle a pair: the layout is told by the attention alone."""
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(HEADS, D_HEAD, generator=generator)
    keys = torch.randn(N, HEADS, D_HEAD, generator=generator)
    pattern = attention(*tables(adjacent), adjacent, query, keys)
    both = [tables(True), tables(False)]
    assert find_pairing(both, query, keys, pattern, len(keys) - 1, "here")[1] is adjacent
    assert find_pairing(both[::-1], query, keys, pattern, len(keys) - 1, "here")[1] is adjacent


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2", "stablelm-parallel"])
def test_keys_worked_out_are_the_keys_that_the_model_shows(name):
    """With grouped keys and with key norms, where hook_rot_k stays silent."""
    pytest.importorskip("transformer_lens.model_bridge")
    from tests.architectures import ARCHITECTURES, PROMPT
    from visit_tl import ModelView, Trace

    architecture = ARCHITECTURES[name]
    view = ModelView(architecture.bridge(architecture.hf_model()))
    prompt = view.tokens.encode(PROMPT, None)
    shown = Trace.run(view, prompt)
    view.__dict__["_hooks"] = frozenset(h for h in view._hooks if "hook_rot_" not in h)
    worked_out = Trace.run(view, prompt)
    for layer, t in shown.layers.items():
        assert "rot" in t.hooks["keys"] and "rot" not in worked_out.layers[layer].hooks["keys"]
        torch.testing.assert_close(worked_out.layers[layer].keys, t.keys)
