"""Attention of chosen heads: what is drawn is what the model attended."""

import json
import re

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests.view.synthetic import HOSTILE
from visit_tl import FileError, InputError
from visit_tl.view.attention import attention

PROMPT = "a b c d"


def drawn(view):
    """What the script hands to CircuitsVis."""
    arguments = view.html.rpartition("CircuitsVis.AttentionHeads,")[2]
    return json.loads(arguments[: arguments.rindex("}") + 1])


def test_the_maps_are_the_patterns_of_the_heads_in_their_order(model):
    graph = vt.flow_graph(model, PROMPT)
    view = graph.attention(["L1H2", "0.1"])
    assert view.heads == ("L1H2", "L0H1")
    given = drawn(view)
    assert given["attentionHeadNames"] == ["L1H2", "L0H1"]
    _, cache = model.run_with_cache(torch.tensor([graph.token_ids]))
    for shown, (layer, head) in zip(given["attention"], [(1, 2), (0, 1)], strict=True):
        own = cache[f"blocks.{layer}.attn.hook_pattern"][0, head]
        np.testing.assert_allclose(shown, own.detach().numpy(), atol=1e-4)
    row = given["attention"][0][graph.position]
    assert row == pytest.approx(list(graph["L1H2"].attention), abs=1e-4)


def test_it_is_one_page_the_same_each_time_that_no_token_can_leave(tmp_path):
    patterns = np.full((1, len(HOSTILE), len(HOSTILE)), 1 / len(HOSTILE))
    view = attention(patterns, HOSTILE, ["L0H0"], title="</title><script>alert(1)</script>")
    again = attention(patterns, HOSTILE, ["L0H0"], title="</title><script>alert(1)</script>")
    assert view.html == again.html
    ours = view.html.rpartition("CircuitsVis.render(")[2]
    assert len(re.findall("</script>", view.html)) == 1 and "<script" not in ours
    assert "connect-src" not in view.html and "default-src" in view.html
    path = view.save(tmp_path / "a.html")
    assert view.save(path) == path and path.read_bytes().startswith(b"<!doctype html>")
    with pytest.raises(FileError, match=r"this is saved as \.html"):
        view.save(tmp_path / "a.json")


def test_heads_and_shapes_that_do_not_fit_are_refused(native):
    for heads, message in (([], "no heads were given"), (["L9H9"], r"L9H9 is no head of native")):
        with pytest.raises(InputError, match=message):
            vt.attention(native, PROMPT, heads)
    with pytest.raises(InputError, match=r"L0\.z is no head"):
        vt.attention(native, PROMPT, ["L0.z"])
    with pytest.raises(InputError, match=r"\[1, 3, 3\] do not fit 1 heads and 2 tokens"):
        attention(np.zeros((1, 3, 3)), ["a", "b"], ["L0H0"])
