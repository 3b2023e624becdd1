"""How queries and keys become what is scored: found from tables, hooks and attention."""

import pytest
import torch

from visit_tl import ModelError
from visit_tl.model.norm import Norm
from visit_tl.model.rotary import Seen, find_way
from visit_tl.model.rotation import Rotation

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


def seen(query, keys, pattern, rotated=None, norms=None):
    each = torch.arange(len(query))
    return Seen(query, keys, pattern, len(keys) - 1, rotated, norms, each, "here")


def drawn(seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(HEADS, D_HEAD, generator=generator) * size
    return query, torch.randn(N, HEADS, D_HEAD, generator=generator) * size


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("size", [1, 30])
def test_the_pairing_is_found_also_where_each_head_sees_one_key(adjacent, size):
    query, keys = drawn(0, size)
    cos, sin = tables(adjacent)
    pattern = attention(cos, sin, adjacent, query, keys)
    way = find_way([(cos, sin)], seen(query, keys, pattern))
    assert way.adjacent is adjacent and torch.equal(way.cos, cos) and torch.equal(way.sin, sin)


def test_the_transpose_undoes_the_turn_and_keeps_inner_products():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 3, D_HEAD, generator=generator)
    for adjacent in (False, True):
        cos, sin = tables(adjacent)
        turn = Rotation(cos[4], sin[4], adjacent)
        torch.testing.assert_close(turn.transpose(turn.forward(x)), x)
        torch.testing.assert_close((turn.forward(x) * y).sum(), (x * turn.transpose(y)).sum())
        scaled = Rotation(1.3 * cos[4], 1.3 * sin[4], adjacent)
        torch.testing.assert_close(scaled.inverse(scaled.forward(x)), x)
        torch.testing.assert_close(scaled.inverse_transpose(scaled.transpose(x)), x)


def test_tables_in_no_known_layout_are_refused():
    cos, sin = torch.rand(N, D_HEAD), torch.rand(N, D_HEAD)
    query, keys = torch.randn(HEADS, D_HEAD), torch.randn(N, HEADS, D_HEAD)
    pattern = torch.rand(HEADS, N).softmax(-1)
    with pytest.raises(ModelError, match="of here do not turn hook_q and hook_k into its attent"):
        find_way([(cos, sin)], seen(query, keys, pattern))
    with pytest.raises(ModelError, match="do not turn hook_q into hook_rot_q"):
        find_way([(cos, sin)], seen(query, keys, pattern, torch.randn(HEADS, D_HEAD)))


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("norm_last", [None, False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("laid_out", ["pairs", "halves", "one a pair"])
def test_every_layout_direction_and_order_is_found(laid_out, adjacent, backwards, norm_last, shown):
    """Tables in one layout, used in another (ERNIE); turned back (nanochat); normed after it."""
    query, keys = drawn(3)
    gains = torch.linspace(0.5, 2.0, D_HEAD), torch.linspace(2.0, 0.3, D_HEAD)
    norms = None if norm_last is None else tuple(Norm("RMS", gain, None, 1e-6) for gain in gains)
    cos, sin = tables(adjacent)
    turn = Rotation(cos[:, None], (-sin if backwards else sin)[:, None], adjacent)
    own = Rotation(turn.cos[-1], turn.sin[-1], adjacent)
    q, k = (query, keys) if norms is None or norm_last else (norms[0](query), norms[1](keys))
    q, k = own.forward(q), turn.forward(k)
    rotated = q if shown else None
    if norms is not None and norm_last:
        q, k = norms[0](q), norms[1](k)
    pattern = torch.einsum("hd,jhd->hj", q, k).softmax(-1)
    given = {
        "pairs": tables(True),
        "halves": tables(False),
        "one a pair": (ANGLES.cos(), ANGLES.sin()),
    }[laid_out]
    way = find_way([given], seen(query, keys, pattern, rotated, norms))
    plain = norms or (lambda x: x,) * 2
    torch.testing.assert_close(way.scored(query, way.at(N - 1), plain[0]), q)
    torch.testing.assert_close(way.scored(keys, way.each(N), plain[1]), k)
    assert way.norm_last is bool(norm_last)


def test_a_block_without_rotation_is_found_to_have_none():
    query, keys = drawn(4)
    pattern = torch.einsum("hd,jhd->hj", query, keys).softmax(-1)
    assert find_way([tables(False)], seen(query, keys, pattern)).cos is None
    assert find_way([tables(False)], seen(query, keys, pattern, query)).cos is None


def test_where_attention_is_on_one_key_the_way_is_asked_for_elsewhere():
    query, keys = drawn(5)
    pattern = torch.zeros(HEADS, N).index_fill(1, torch.tensor([2]), 1.0)
    places = [find_way([tables(False)], seen(query, keys, pattern), lambda p=p: p) for p in (1, 2)]
    assert [way.place for way in places] == [1, 2]


@pytest.mark.parametrize("adjacent", [False, True])
def test_of_several_tables_the_one_that_gives_the_attention_is_taken(adjacent):
    query, keys = drawn(2)
    pattern = attention(*tables(adjacent), adjacent, query, keys)
    both = [tables(True), tables(False)]
    assert find_way(both, seen(query, keys, pattern)).adjacent is adjacent
    assert find_way(both[::-1], seen(query, keys, pattern)).adjacent is adjacent


def test_a_norm_after_the_rotation_is_linear_in_the_query_s_own_frame():
    """`parts` and `transpose` are one map: that of the norm of the turned vector."""
    query, other = drawn(6)[0], drawn(7)[0]
    cos, sin = tables(False)
    turn = Rotation(1.2 * cos[3], 1.2 * sin[3], False)
    norm = Norm("LN", torch.linspace(0.5, 2.0, D_HEAD), torch.linspace(-1, 1, D_HEAD), 1e-6)
    frozen = norm.freeze(turn.forward(query)).within(turn)
    whole = turn.forward(frozen.parts(query) + frozen.bias)
    torch.testing.assert_close(whole, norm(turn.forward(query)))
    torch.testing.assert_close(
        (frozen.transpose(other) * query).sum(), (other * frozen.parts(query)).sum()
    )


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
