"""Direct feature attribution: by hand, by loops, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT, READABLE
from tests.features.tiny_modules import module, named_hooks
from visit_tl.features.encoders import GatedEncoder
from visit_tl.model.view import ModelView

DATA = Path(__file__).parents[1] / "data" / "features"


def by_loops(view, sae, feature, position):
    """What each head adds by each position, as the encoder's own finite sums of z; no einsum."""
    names = [f"blocks.{sae.layer}.attn.hook_{x}" for x in ("v", "pattern", "z")]
    kept = named_hooks(view, view.model.to_tokens(PROMPT), names)
    values, pattern, z = (kept[name] for name in names)
    groups = view.n_heads // values.shape[1]
    x = z[position].flatten()
    encode = linear_part(sae, x, feature)
    parts = np.zeros((view.n_heads, len(z)))
    for h in range(view.n_heads):
        for j in range(position + 1):
            one = torch.zeros_like(z[position])
            one[h] = pattern[h, position, j] * values[j, h // groups]
            parts[h, j] = encode(one.flatten()) - encode(torch.zeros_like(x))
    return parts, encode(torch.zeros_like(x)), encode(x)


def linear_part(sae, at, feature):
    """The pre-activation of one feature as a function of z, norms with the scale that they have."""
    mean, std, factor = at.mean(), at.std(), at.numel() ** 0.5 / at.norm()

    def encode(x):
        if sae.norm == "layer_norm":
            # What it would be with this mean taken off, and divided by the scale at `at`.
            x = (x - x.mean()) / (std + 1e-5)
        elif sae.norm == "constant_norm_rescale":
            x = x * factor
        x = x if sae.b_in is None else x - sae.b_in
        e = sae.encoder
        if isinstance(e, GatedEncoder):
            return float(x @ e.W_enc[:, feature] * e.r_mag[feature].exp() + e.b_mag[feature])
        return float(x @ e.W_enc[:, feature] + e.b_enc[feature])

    assert torch.isfinite(mean)
    return encode


@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
def test_it_equals_loops_over_heads_and_positions(llama, norm):
    view = ModelView(llama)
    sae = module(view, "z", norm=norm)
    n = len(view.encode(PROMPT, None).ids)
    for feature, position in ((0, -1), (7, 4)):
        found = vt.causal.feature_attribution(llama, PROMPT, sae, feature, position=position)
        parts, bias, whole = by_loops(view, sae, feature, position % n)
        assert np.allclose(found.parts, parts, atol=2e-6)
        assert found.bias == pytest.approx(bias, abs=2e-6)
        assert found.pre_activation == pytest.approx(whole, abs=2e-6)
        assert found.parts.sum() + found.bias == pytest.approx(whole, abs=2e-6)
        assert found.activation == pytest.approx(max(whole, 0.0), abs=2e-6)


@pytest.mark.parametrize("folder", ["old_standard_z", "gated_z_rescaled", "jumprelu_z_layer_norm"])
def test_files_of_saelens_at_hook_z_are_split(native, folder):
    view = ModelView(native)
    sae = vt.features.open(DATA / folder, model_name=view.name, hook="blocks.1.attn.hook_z")
    position = len(view.encode(PROMPT, None).ids) - 1
    for feature in (0, 11, 40):
        found = vt.causal.feature_attribution(native, PROMPT, sae, feature)
        parts, bias, whole = by_loops(view, sae, feature, position)
        assert np.allclose(found.parts, parts, atol=2e-6)
        assert found.pre_activation == pytest.approx(whole, abs=2e-6)
        assert found.bias == pytest.approx(bias, abs=2e-6)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="has no bridges to open these with")
@pytest.mark.parametrize("name", READABLE)
def test_the_parts_sum_to_the_pre_activation_on_every_architecture(name):
    view = ModelView(ARCHITECTURES[name].bridge())
    found = vt.causal.feature_attribution(view.model, PROMPT, module(view, "z"), 5)
    assert found.error < 2e-6  # measured: 1.4e-7
    assert found.parts.shape == (view.n_heads, len(found.tokens))


def test_a_case_that_can_be_worked_out_on_paper():
    """The last token attends 2/4, 1/4, 1/4 in head 0, evenly in head 1 (tests/test_by_hand.py)."""
    model = tiny.hand_set()
    view = ModelView(model)
    sae = module(view, "z", 0, n=2)
    enc = replace(
        sae.encoder,
        W_enc=torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]),
        b_enc=torch.tensor([0.5, 0.0]),
    )
    sae = replace(sae, encoder=enc, b_in=torch.tensor([0.25, 0.0, 0.0, 0.0]))
    ids = [0, 1, 2]
    found = vt.causal.feature_attribution(model, ids, sae, 0)
    # Only token 0 has a value in entry 0 of head 0, and it is 3; head 1 has 1 at token 2.
    assert found.parts[0] == pytest.approx([2 / 4 * 3, 0, 0])
    assert found.parts[1] == pytest.approx([0, 0, 1 / 3 * 2])
    assert found.bias == pytest.approx(0.25)
    assert found.pre_activation == pytest.approx(1.5 + 2 / 3 + 0.25)
    assert found.activation == pytest.approx(found.pre_activation)
    assert found.heads == pytest.approx([1.5, 2 / 3]) and found.sources[0] == pytest.approx(1.5)


def test_a_graph_tells_of_its_own_features(native, tmp_path):
    view = ModelView(native)
    sae = module(view, "z")
    graph = vt.flow_graph(native, PROMPT, saes=[sae, module(view, "resid_post")])
    node = graph.of_kind("feature")[0]
    found = graph.feature_attribution(node.id)
    assert found.activation == pytest.approx(node.coefficient, abs=1e-6)
    assert str(found.feature) == str(node.id) and found.position == graph.position
    loaded = vt.FlowGraph.load(graph.save(tmp_path / "g.json"))
    with pytest.raises(vt.GraphError, match="not at hand; pass it as sae="):
        loaded.feature_attribution(node.id, model=native)
    again = loaded.feature_attribution(node.id, model=native, sae=sae)
    assert np.array_equal(again.parts, found.parts)
    with pytest.raises(vt.GraphError, match="is no feature"):
        graph.feature_attribution("L1H0")
    with pytest.raises(vt.InputError, match="only what is read from hook_z"):
        graph.feature_attribution("L1.resid_post.F1")


def test_a_graphs_feature_is_not_told_of_by_another_sae(native):
    view = ModelView(native)
    graph = vt.flow_graph(native, PROMPT, saes=module(view, "z"))
    node = graph.of_kind("feature")[0].id
    twin = replace(module(view, "z", seed=7), name="twin")
    with pytest.raises(vt.GraphError, match="by twin, so it is of another SAE"):
        graph.feature_attribution(node, sae=twin)
    with pytest.raises(vt.GraphError, match=r"was asked for, and sae= is of L0\.z\.F"):
        graph.feature_attribution(node, sae=module(view, "z", 0))
    assert graph.feature_attribution(node, sae=replace(module(view, "z"), name="moved"))


def test_table_text_and_figure_tell_the_same(native):
    view = ModelView(native)
    found = vt.causal.feature_attribution(native, PROMPT, module(view, "z"), 3)
    frame = found.to_dataframe()
    assert frame["adds"].sum() + found.bias == pytest.approx(found.pre_activation, abs=1e-6)
    assert frame["adds"].abs().is_monotonic_decreasing
    assert frame["value"].iloc[0] in str(found)
    assert f"{found.feature} of tiny-z" in str(found)
    figure = found.figure()
    assert np.allclose(np.array(figure.data[0].z), found.parts)
    few = found.figure(theme="dark", positions=3)
    assert few.layout.xaxis.ticktext[-1].endswith("others")
    assert np.allclose(np.array(few.data[0].z).sum(1), found.heads, atol=1e-6)
    assert found._repr_html_().startswith("<pre>")
    with pytest.raises(vt.InputError, match="positions is 0"):
        found.figure(positions=0)


def test_what_is_no_sum_over_heads_is_refused(native):
    view = ModelView(native)
    sae = module(view, "z")
    pursuit = vt.features.open(
        DATA / "matching_pursuit", model_name=view.name, hook="blocks.1.attn.hook_z"
    )
    for given, feature, match in (
        (sae, 99, "has the features 0..23, got 99"),
        (pursuit, 0, "one after the other"),
        (module(view, "attn_out"), 0, "only what is read from hook_z"),
        ([sae, sae], 0, "2 were given; pass the one"),
    ):
        with pytest.raises(vt.InputError, match=match):
            vt.causal.feature_attribution(native, PROMPT, given, feature)
