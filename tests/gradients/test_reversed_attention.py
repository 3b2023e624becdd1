"""Reversed attention and attention patching beside brute force."""

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import MAKERS, made
from visit_tl import GraphError, InputError, ModelView
from visit_tl.causal import logit_difference
from visit_tl.gradients import attention_patching, mean_maps, patching_sweep
from visit_tl.model.added_attention import pattern_is_used

PROMPT, OTHER = "a b c d e ab cd", "b c d e a ab cd"
# Largest error of the laws over all small models and architectures in float32: 2.7e-6.
MEASURED = 1e-5


def reversed_of(model, target="a", **options):
    return vt.reversed_attention(model, PROMPT, target, **options)


def logits_of(model, prompt=PROMPT):
    ids = torch.tensor([ModelView(model).tokens.encode(prompt, None).ids])
    with torch.no_grad():
        return model(ids)[0]


def test_the_laws_hold(model):
    found = reversed_of(model)
    assert set(found.errors) == {
        "rows of R sum to 0",
        "gradient at queries = R K",
        "gradient at keys = R^T Q",
        "gradient at values = A^T e",
    }
    assert max(found.errors.values()) < MEASURED
    assert found.scales == pytest.approx([0.5, 0.5], rel=1e-6)


def test_maps_are_zero_above_the_mask_in_the_first_row_and_sum_to_zero(model):
    maps = reversed_of(model).maps()
    n = maps.shape[-1]
    assert maps.shape == (2, 4, n, n)
    assert not maps[..., np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1]].any()
    assert maps.sum(-1) == pytest.approx(np.zeros((2, 4, n)), abs=1e-7)
    assert maps[:, :, 0] == pytest.approx(np.zeros((2, 4, n)), abs=1e-9)
    # Only the last query of the last block reaches the loss.
    assert not maps[1, :, :-1].any() and maps[1, :, -1].any()


def test_norms_are_those_of_the_maps(model):
    found = reversed_of(model)
    for kind, norms in ((found.maps(), found.norms), (found.forward_maps(), found.forward_norms)):
        assert np.sqrt((kind.astype("float64") ** 2).sum((2, 3))) == pytest.approx(norms, rel=1e-5)
    layer, head = found.strongest(1)[0]
    assert found.norms.max() == pytest.approx(np.linalg.norm(found.map(layer, head)), rel=1e-5)
    first = found.to_dataframe().iloc[0]
    assert first["head"] == f"L{layer}H{head}"
    assert abs(first["value"]) == pytest.approx(np.abs(found.map(layer, head)).max())


def test_maps_that_are_too_large_to_keep_are_made_again(model, monkeypatch):
    kept = reversed_of(model)
    monkeypatch.setattr("visit_tl.gradients.attention_gradients.KEPT_BYTES", 0)
    with pytest.warns(vt.PerformanceWarning, match="1 layers at a time, in 2 runs of the model"):
        lazy = reversed_of(model)
    assert lazy.norms == pytest.approx(kept.norms) and lazy.errors.keys() == kept.errors.keys()
    assert lazy.store[0] is None
    assert lazy.map(1, 2) == pytest.approx(kept.map(1, 2), abs=1e-9)
    monkeypatch.setattr("visit_tl.gradients.reversed_attention_result._IN_MEMORY", 0)
    on_disk = lazy.maps()
    assert isinstance(on_disk, np.memmap) and on_disk.dtype == np.float16
    assert on_disk == pytest.approx(kept.maps(), abs=1e-3 * float(kept.norms.max()))


def test_the_map_of_a_metric_is_that_of_its_own_gradient(model):
    loss, metric = reversed_of(model), reversed_of(model, logit_difference("a", "b"))
    assert metric.is_metric and metric.target == "a"
    a, b = (reversed_of(model, lambda x, t=t: x[0, -1, t]) for t in
            (metric.target_id, ModelView(model).tokens.single("b")))  # fmt: skip
    assert metric.maps() == pytest.approx(a.maps() - b.maps(), abs=1e-6)
    assert loss.metric == "-log p(target)"


def test_rows_go_onto_the_heads_of_a_graph(model):
    found, graph = reversed_of(model), vt.flow_graph(model, PROMPT, target="a")
    onto = found.onto(graph)
    for node in onto:
        if node.kind != "head":
            assert node.reversed is None
            continue
        own = found.map(node.layer, node.id.head)
        assert node.reversed.norm == pytest.approx(np.linalg.norm(own), rel=1e-5)
        assert node.reversed.row == pytest.approx(own[graph.position].tolist())
    with pytest.raises(GraphError):
        found.onto(vt.flow_graph(model, OTHER))


def test_ids_that_are_no_heads_are_named():
    found = reversed_of(made("gpt2"), layers=[1])
    assert found.heads(["L1H2"]) == [(1, 2)]
    with pytest.raises(InputError, match="L0H1 is no head of this result"):
        found.heads("L0H1")
    with pytest.raises(InputError, match="layer 0 is not in this result"):
        found.map(0, 0)
    with pytest.raises(InputError, match="head 9 is outside"):
        found.map(1, 9)


# --- patching ------------------------------------------------------------------------------------


def test_patched_heads_are_the_patched_attention_times_values(model):
    found = reversed_of(model)
    ids = torch.tensor([found.token_ids])
    kept = {}

    def keep(tensor, hook):
        kept[hook.name.rsplit(".", 1)[-1], hook.name.split(".")[1]] = tensor[0].detach()

    def run(m):
        names = [
            f"blocks.{i}.attn.{h}" for i in (0, 1) for h in ("hook_pattern", "hook_v", "hook_z")
        ]
        kept.clear()
        with torch.no_grad():
            m.run_with_hooks(
                ids, fwd_hooks=[(n, lambda t, hook, n=n: kept.__setitem__(n, t[0])) for n in names]
            )
        return dict(kept)

    clean = run(model)
    with attention_patching(model, found, alpha=-200.0) as patched:
        assert patched is model
        after = run(patched)
    pattern = after["blocks.0.attn.hook_pattern"]
    change = torch.as_tensor(found.maps()[0])
    assert torch.allclose(pattern, clean["blocks.0.attn.hook_pattern"] - 200 * change, atol=1e-5)
    assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:2]), atol=1e-5)
    for i in (0, 1):
        v = after[f"blocks.{i}.attn.hook_v"]
        each = ModelView(model).kv_head(v.shape[1])
        made_z = torch.einsum("hqk,khd->qhd", after[f"blocks.{i}.attn.hook_pattern"], v[:, each])
        assert torch.allclose(made_z, after[f"blocks.{i}.attn.hook_z"], atol=1e-5)
    assert not torch.allclose(clean["blocks.0.attn.hook_z"], after["blocks.0.attn.hook_z"])


def test_everything_inside_sees_the_patch_and_nothing_outside(model):
    found = reversed_of(model)
    before = logits_of(model)
    with attention_patching(model, found, alpha=-200.0):
        inside = logits_of(model)
        model.reset_hooks()
        model.run_with_hooks(torch.tensor([found.token_ids]), fwd_hooks=[])
        assert torch.equal(logits_of(model), inside)
        graph = vt.flow_graph(model, PROMPT, target="a")
        assert graph.patched and max(graph.residual_error.values()) < MEASURED
        assert graph["logits"].prob == pytest.approx(
            float(inside[-1].softmax(-1)[graph.target_id]), abs=1e-5
        )
        effects = vt.causal.effects(
            model, PROMPT, logit_difference("a", "b"), how="zero", nodes=["L0H1"], verbose=False
        )

        def zero(z, hook):
            z = z.clone()
            z[:, -1, 1] = 0
            return z

        def difference(logits):
            tokens = ModelView(model).tokens
            return float(logits[0, -1, tokens.single("a")] - logits[0, -1, tokens.single("b")])

        with torch.no_grad():
            ids = torch.tensor([found.token_ids])
            hooked = model.run_with_hooks(ids, fwd_hooks=[("blocks.0.attn.hook_z", zero)])
        expected = difference(hooked) - difference(inside[None])
        assert effects["L0H1"].value == pytest.approx(expected, abs=1e-5)
    assert torch.equal(logits_of(model), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_patch_is_gone_after_an_error(model):
    before = logits_of(model)
    with pytest.raises(ZeroDivisionError), attention_patching(model, reversed_of(model)):
        raise ZeroDivisionError
    assert torch.equal(logits_of(model), before)


def test_only_the_heads_that_are_named_are_patched(model):
    found = reversed_of(model)
    one = np.zeros_like(found.maps())
    one[0, 2] = found.maps()[0, 2]
    with attention_patching(model, found, -50.0, heads=["L0H2"]):
        named = logits_of(model)
    with attention_patching(model, one, -50.0):
        array = logits_of(model)
    assert torch.allclose(named, array, atol=1e-6)
    assert not torch.allclose(named, logits_of(model), atol=1e-6)


def test_prompts_of_another_length_are_refused_inside(model):
    with (
        attention_patching(model, reversed_of(model)),
        pytest.raises(InputError, match=r"is of \d+ tokens, and this run has"),
    ):
        logits_of(model, "a b")


def test_maps_of_other_shapes_are_refused():
    model = made("gpt2")
    for maps in (np.zeros((2, 4, 3)), np.zeros((3, 4, 5, 5)), np.zeros((2, 4, 5, 6)), 3.0):
        with (
            pytest.raises(InputError, match=r"maps are a ReversedAttention or \[layer, head"),
            attention_patching(model, maps),
        ):
            pass
    broken = np.full((2, 4, 3, 3), np.nan)
    with pytest.raises(InputError, match="not finite"), attention_patching(model, broken):
        pass


def test_mean_maps_are_means(model):
    both = [vt.reversed_attention(model, p, "a") for p in (PROMPT, OTHER)]
    found = mean_maps(model, [PROMPT, OTHER], "a", verbose=False)
    assert found.n_prompts == 2
    assert found.reversed == pytest.approx((both[0].maps() + both[1].maps()) / 2, abs=1e-9)
    assert found.forward == pytest.approx(
        (both[0].forward_maps() + both[1].forward_maps()) / 2, abs=1e-6
    )
    with pytest.raises(InputError, match="prompts of one length"):
        mean_maps(model, [PROMPT, "a b"], verbose=False)
    with pytest.raises(InputError, match="3 targets were given for 2 prompts"):
        mean_maps(model, [PROMPT, OTHER], ["a", "b", "c"], verbose=False)


def test_a_sweep_measures_each_alpha_as_a_patched_run_does(model):
    maps = mean_maps(model, [PROMPT], "a", verbose=False)
    sweep = patching_sweep(
        model, maps, [PROMPT, OTHER], ["a", "b"], alphas=(-40.0, 0.0), control=(1.0,), verbose=False
    )
    table = sweep.to_dataframe()
    assert list(table["maps"]) == ["reversed", "reversed", "forward"]
    tokens = ModelView(model).tokens
    for row, (which, alpha) in enumerate(
        [(maps.reversed, -40.0), (maps.reversed, 0.0), (maps.forward, 1.0)]
    ):
        with attention_patching(model, which, alpha):
            logits = torch.stack([logits_of(model, p)[-1] for p in (PROMPT, OTHER)])
        wanted = torch.tensor([tokens.single("a"), tokens.single("b")])
        loss = -logits.log_softmax(-1).gather(1, wanted[:, None]).mean()
        assert table["loss"][row] == pytest.approx(float(loss), abs=1e-5)
        assert table["accuracy"][row] == float((logits.argmax(-1) == wanted).float().mean())
    assert sweep.best()["alpha"] in (-40.0, 0.0)


@pytest.mark.parametrize("name", [n for n in MAKERS if not n.startswith("hooked")][:3])
def test_patching_works_inside_inference_mode(name):
    with torch.inference_mode():
        model = MAKERS[name]()
        found = reversed_of(model)
        clean = logits_of(model)
        with attention_patching(model, found, -100.0):
            assert not torch.allclose(logits_of(model), clean)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="bridges only")
def test_models_that_only_show_their_attention_are_patched_at_the_heads():
    from tests.architectures import ARCHITECTURES

    model = ARCHITECTURES["opt"].bridge()
    if pattern_is_used(ModelView(model)):
        pytest.skip("this release makes OPT's heads from the hook")
    found = reversed_of(model)
    with attention_patching(model, found, -200.0):
        graph = vt.flow_graph(model, PROMPT, target="a")
        logits = logits_of(model)
    assert graph["L1H0"].attention == pytest.approx(
        (found.forward_map(1, 0) - 200 * found.map(1, 0))[-1].tolist(), abs=0.2
    )
    assert not torch.allclose(logits, logits_of(model))
