"""A model with adapters is read as the model that has them merged into its weights."""

import copy
import warnings

import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl import GraphError, ModelError, ModelView
from visit_tl.atlas import row_cache as rooms
from visit_tl.atlas.fingerprint import fingerprint
from visit_tl.atlas.weight_rows import Places
from visit_tl.causal.metrics import logit_difference

peft = pytest.importorskip("peft")
if not tiny.HAS_BRIDGE:
    pytest.skip("a HookedTransformer has no layers for adapters", allow_module_level=True)

from transformers.pytorch_utils import Conv1D

from tests.architectures import ARCHITECTURES, bridge

IDS = [1, 2, 3, 4, 1]
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
FUSED = ("c_attn", "query_key_value")
FIELDS = ("W_Q", "W_K", "W_O", "b_O", "W_in", "W_out", "b_out")
# float32; measured on Llama: at most 2e-7 of the weights, 5e-7 in graphs.
NEAR = {"rtol": 1e-5, "atol": 1e-5}


# What TransformerLens 3 does not open as the model it is, with or without adapters.
NOT_IN_3 = ("olmo2", "cohere-qk-norm")


def quietly(call, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft has much to say
        return call(*args, **options)


def fill(model, seed=0):
    """Random numbers in all parameters that an adapter brought."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "base_layer" not in name and "original_module" not in name and _brought(name):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def _brought(name):
    return any(f".{adapter}" in name for adapter in ("default", "one", "two"))


def adapted(hf=None, config=None, seed=0, **options):
    """A Hugging Face model with an adapter, Llama with LoRA everywhere if not told otherwise."""
    hf = tiny.hf_llama() if hf is None else hf
    if config is None:
        config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": LLAMA} | options))
    return fill(quietly(peft.get_peft_model, hf, config), seed).eval()


def opened(model, name="adapted"):
    return bridge(f"tiny-{name}", model.base_model.model)


def merged(model, name="adapted"):
    """The brute-force twin: a copy with its adapters merged away, opened as a plain model."""
    return bridge(f"tiny-{name}", quietly(copy.deepcopy(model).merge_and_unload))


def both(model, name="adapted"):
    twin = merged(model, name)
    return opened(model, name), twin


def require_same_weights(one, other):
    one, other = ModelView(one), ModelView(other)
    for layer in range(one.n_layers):
        ours, theirs = one.weights(layer), other.weights(layer)
        for field in FIELDS:
            a, b = getattr(ours, field), getattr(theirs, field)
            assert (a is None) == (b is None), field
            if a is not None:
                torch.testing.assert_close(a, b, **NEAR)
    torch.testing.assert_close(one.W_U, other.W_U, **NEAR)
    assert (one.b_U is None) == (other.b_U is None)
    if one.b_U is not None:
        torch.testing.assert_close(one.b_U, other.b_U, **NEAR)


def graph_of(model, **options):
    return vt.flow_graph(model, IDS, target=7, heads=4, neurons=60, **options)


def numbers(graph):
    return {
        str(n.id): torch.tensor(
            [n.norm or 0.0, n.prob or 0.0, n.entropy or 0.0, n.coefficient or 0]
        )
        for n in graph.nodes
    }


def same(one, other):
    """Whether two graphs hold the same numbers, to rounding."""
    a, b = numbers(one), numbers(other)
    return a.keys() == b.keys() and all(torch.allclose(a[i], b[i], **NEAR) for i in a)


# --- every architecture, every place, every kind ------------------------------------------------


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if not a.experts])
def test_weights_and_laws_are_those_of_the_merged_model(name):
    if tiny.RELEASE < (4,) and name in NOT_IN_3:
        pytest.skip("TransformerLens 3 does not read the query norms of this architecture")
    hf = ARCHITECTURES[name].hf_model()
    # Merging an adapter of one of two tied matrices changes the other too.
    head = hf.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    hf.config.tie_word_embeddings = False
    layers = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    # OPT's positions are no function of ids alone, which peft's embedding is.
    out = (*FUSED, "embed_positions")
    targets = [n for n, m in hf.named_modules() if isinstance(m, layers) and not n.endswith(out)]
    model = adapted(hf, target_modules=targets)
    ours, theirs = both(model, name)
    require_same_weights(ours, theirs)
    report = vt.check(ours)
    assert report.exact and report.adapters == ("default",), report.verdict
    torch.testing.assert_close(ours(torch.tensor([IDS])), theirs(torch.tensor([IDS])), **NEAR)


KINDS = {
    "rsLoRA": lambda: peft.LoraConfig(r=4, use_rslora=True, target_modules=LLAMA),
    "DoRA": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=LLAMA[:7]),
    "whole lm_head": lambda: peft.LoraConfig(
        r=4, target_modules=LLAMA[:7], modules_to_save=["lm_head"]
    ),
    "whole norms": lambda: peft.LoraConfig(
        r=4, target_modules=LLAMA[:7], modules_to_save=["norm", "input_layernorm"]
    ),
    "IA3": lambda: peft.IA3Config(target_modules=LLAMA[:7], feedforward_modules=["down_proj"]),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=LLAMA[:7]),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
    "LoHa": lambda: peft.LoHaConfig(r=4, target_modules=LLAMA[:7]),
    "LoKr": lambda: peft.LoKrConfig(r=4, target_modules=LLAMA[:7]),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, target_modules=LLAMA[:7]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_adapter_that_is_linear_is_read(kind):
    model = adapted(config=quietly(KINDS[kind]))
    ours, theirs = both(model)
    assert graph_of(ours).adapters == ("default",)
    assert same(graph_of(ours), graph_of(theirs))
    assert not same(graph_of(ours), graph_of(tiny.bridged(tiny.hf_llama())))
    require_same_weights(ours, theirs)


def test_weights_are_those_of_the_formula():
    model = adapted(use_rslora=True)
    weights = ModelView(opened(model)).weights(1)
    layer = model.base_model.model.model.layers[1].mlp.down_proj._original_component
    a, b = (m["default"].weight.detach() for m in (layer.lora_A, layer.lora_B))
    for i in (0, 3):
        for j in (0, 7, 39):
            change = sum(b[i, r] * a[r, j] for r in range(4)) * 6 / 4**0.5
            wanted = layer.base_layer.weight.detach()[i, j] + change
            assert float(weights.W_out[j, i]) == pytest.approx(float(wanted), abs=1e-6)


def test_a_bias_that_an_adapter_adds_is_a_bias():
    model = adapted(target_modules=["o_proj", "down_proj"], lora_bias=True)
    view = ModelView(opened(model))
    inner = model.base_model.model.model.layers[0]
    for bias, layer in (
        (view.weights(0).b_O, inner.self_attn.o_proj),
        (view.weights(0).b_out, inner.mlp.down_proj),
    ):
        wanted = layer._original_component.lora_B["default"].bias * 6 / 4
        torch.testing.assert_close(bias, wanted.detach(), **NEAR)
    graph = graph_of(view.model)
    assert "L0.b_O" in graph and "L0.b_out" in graph


def test_biases_trained_with_lora_are_read():
    hf = tiny.hf_gpt2()
    model = adapted(hf, target_modules=["c_proj", "c_fc"], bias="all", fan_in_fan_out=True)
    with torch.no_grad():
        hf.transformer.h[0].attn.c_proj.base_layer.bias.add_(0.5)
    require_same_weights(*both(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read(dtype):
    model = adapted(tiny.hf_llama().to(dtype))
    ours = opened(model)
    assert vt.check(ours).exact
    assert ModelView(ours).W_U.dtype == dtype
    weights = ModelView(ours).weights(0)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj._original_component
    a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    wanted = (layer.base_layer.weight.double() + b @ a * 6 / 4).float()
    torch.testing.assert_close(weights.W_Q.transpose(1, 2).flatten(0, 1), wanted, **NEAR)


# --- states of an adapter -----------------------------------------------------------------------


def test_another_adapter_is_another_graph_and_the_first_comes_back():
    model = adapted(target_modules=LLAMA)
    config = peft.LoraConfig(r=2, target_modules=LLAMA)
    quietly(model.add_adapter, "two", config)
    fill(model, seed=3)
    plain = graph_of(tiny.bridged(tiny.hf_llama()))
    ours = opened(model)

    def fingerprints():
        view = ModelView(ours)
        return fingerprint(view, Places.of(view), 5)

    first, print_of_first = graph_of(ours), fingerprints()
    quietly(model.set_adapter, "two")
    second = graph_of(ours)
    assert second.adapters == ("two",) and not same(first, second)
    assert fingerprints() != print_of_first
    quietly(model.set_adapter, "default")
    assert fingerprints() == print_of_first
    assert same(graph_of(ours), first) and graph_of(ours).adapters == ("default",)
    with quietly(model.disable_adapter):
        off = graph_of(ours)
    assert off.adapters == () and same(off, plain) and not same(off, first)
    quietly(model.base_model.set_adapter, ["default", "two"])
    sum_of_both = graph_of(ours)
    assert sum_of_both.adapters == ("default", "two")
    assert not same(sum_of_both, first) and not same(sum_of_both, second)
    quietly(model.merge_adapter)
    assert same(graph_of(ours), sum_of_both)
    assert graph_of(ours).adapters == ("default", "two")
    quietly(model.unmerge_adapter)
    assert same(graph_of(ours), sum_of_both)


def test_several_active_adapters_add_up():
    model = adapted()
    quietly(model.add_adapter, "two", peft.LoraConfig(r=2, target_modules=LLAMA[3:]))
    fill(model, seed=3)
    quietly(model.base_model.set_adapter, ["default", "two"])
    require_same_weights(*both(model))


def test_weights_edited_in_place_are_read_anew():
    model = adapted()
    ours = opened(model)
    view, first = ModelView(ours), graph_of(ours)
    vt.Trace.run(view, view.tokens.encode(IDS, None))
    before = view.weights(0).W_O.clone()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    assert not same(graph_of(ours), first)
    # Also by a view that was there before: the next run shows that the layer gives something else.
    vt.Trace.run(view, view.tokens.encode(IDS, None))
    assert not torch.allclose(view.weights(0).W_O, before)
    require_same_weights(*both(adapted()))


def test_the_atlas_keeps_the_rows_of_each_adapter_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIT_TL_CACHE", str(tmp_path))
    monkeypatch.setattr(rooms, "_WORTH", 0)
    model = adapted(target_modules=LLAMA[:7])  # the unembedding, and so the fingerprint, stays
    quietly(model.add_adapter, "two", peft.LoraConfig(r=2, target_modules=LLAMA[:7]))
    fill(model, seed=3)
    ours = opened(model)
    for setting in ("memory", "disk"):
        for adapter in ("default", "two", "default"):
            quietly(model.set_adapter, adapter)
            monkeypatch.setenv("VISIT_TL_ATLAS", "off")
            wanted = graph_of(ours)
            monkeypatch.setenv("VISIT_TL_ATLAS", setting)
            assert graph_of(ours) == wanted
    rooms.forget()


# --- how a model comes by its adapter -----------------------------------------------------------


def test_adapters_put_into_an_opened_model_are_read():
    ours = tiny.bridged(tiny.hf_llama())
    first = graph_of(ours)
    config = peft.LoraConfig(r=4, target_modules=r".*_proj\._original_component")
    quietly(peft.inject_adapter_in_model, config, ours.original_model)
    fill(ours)
    graph = graph_of(ours.eval())
    assert graph.adapters == ("default",) and not same(graph, first)
    assert vt.check(ours).exact
    theirs = tiny.hf_llama()
    for i, layer in enumerate(theirs.model.layers):
        for part in (layer.self_attn, layer.mlp):
            for name, linear in part.named_children():
                if isinstance(linear, torch.nn.Linear):
                    block = ours.original_model.model.layers[i]
                    own = getattr(block.self_attn if part is layer.self_attn else block.mlp, name)
                    change = own._original_component.get_delta_weight("default")
                    linear.weight.data += change.detach()
    assert same(graph, graph_of(tiny.bridged(theirs)))


def test_adapters_on_the_parts_of_a_fused_matrix_are_read():
    ours = tiny.bridged(tiny.hf_gpt2())
    targets = r".*attn\.(q|k|v)\._original_component"
    config = peft.LoraConfig(r=4, target_modules=targets)
    quietly(peft.inject_adapter_in_model, config, ours)
    fill(ours)
    view = ModelView(ours.eval())
    layer = ours.blocks[0].attn.k._original_component
    wanted = (layer.base_layer.weight + layer.get_delta_weight("default")).detach()
    torch.testing.assert_close(view.weights(0).W_K.transpose(1, 2).flatten(0, 1), wanted, **NEAR)
    assert vt.check(ours).exact


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "bloom", "falcon"])
def test_an_adapter_that_transformer_lens_leaves_out_is_refused(name):
    targets = ["c_attn" if name == "gpt2" else "query_key_value"]
    ours = opened(adapted(ARCHITECTURES[name].hf_model(), target_modules=targets), name)
    with pytest.raises(ModelError, match=r"takes no part in what .*merge_and_unload"):
        graph_of(ours)
    assert not vt.check(ours).exact


def test_a_whole_peft_model_that_transformer_lens_opens_is_read():
    config = {"target_modules": ["c_proj", "c_fc"], "fan_in_fan_out": True}
    model = adapted(tiny.hf_gpt2(), task_type="CAUSAL_LM", **config)
    theirs, ours = merged(model), bridge("tiny-gpt2", model)
    require_same_weights(ours, theirs)
    assert same(graph_of(ours), graph_of(theirs))


# --- what else is asked of a graph --------------------------------------------------------------


def test_effects_attribution_and_edges_are_those_of_the_merged_model():
    ours, theirs = both(adapted())
    metric, corrupted = logit_difference(7, 9), [5, 2, 6, 4, 3]
    one, other = graph_of(ours), graph_of(theirs)
    assert same(one, other)
    near = {"abs": 5e-5, "rel": 1e-4}
    a, b = (g.effects(metric, corrupted=corrupted, verbose=False) for g in (one, other))
    assert a.way == "rows" and a.ids == b.ids
    assert list(a.values) == pytest.approx(list(b.values), **near)
    a, b = (
        vt.causal.edge_effects(m, IDS, metric, corrupted=corrupted, verbose=False)
        for m in (ours, theirs)
    )
    assert list(a.values) == pytest.approx(list(b.values), **near)
    assert one.attribution().total == pytest.approx(other.attribution().total, rel=1e-5)


def test_a_graph_is_not_asked_again_under_another_adapter():
    model = adapted()
    quietly(model.add_adapter, "two", peft.LoraConfig(r=2, target_modules=LLAMA))
    ours, theirs = both(model)
    graph = graph_of(ours)
    quietly(model.set_adapter, "two")
    with pytest.raises(GraphError, match="adapters default, and now the model has two"):
        graph.attribution()
    quietly(model.set_adapter, "default")
    assert graph.attribution().total == pytest.approx(
        graph.attribution(model=theirs).total, rel=1e-5
    )


def test_a_graph_says_which_adapters_took_part(tmp_path):
    graph = graph_of(opened(adapted()))
    assert "\nadapters    default\n" in graph.text()
    graph.save(tmp_path / "g.json")
    assert vt.FlowGraph.load(tmp_path / "g.json").adapters == ("default",)


def test_a_cache_is_held_against_the_adapted_embedding():
    model = adapted(target_modules=["embed_tokens", "o_proj"])
    embedding = model.base_model.model.model.embed_tokens
    with torch.no_grad():
        embedding.lora_embedding_B["default"].mul_(50)
    ours = opened(model)
    _, cache = ours.run_with_cache(torch.tensor([IDS]))
    assert same(graph_of(ours, cache=cache), graph_of(ours))
    with pytest.raises(vt.InputError, match="was not made from this prompt"):
        vt.flow_graph(ours, [3, 3, 3, 3, 3], cache=cache)


# --- what is not changed, and what is refused ---------------------------------------------------


def test_the_model_and_the_hooks_in_its_adapters_are_left_alone():
    model = adapted()
    ours = opened(model)
    inner = model.base_model.model.model.layers[0].self_attn.o_proj._original_component
    seen = []
    handle = inner.lora_A["default"].register_forward_hook(lambda m, x, y: seen.append(x[0].shape))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    state = torch.random.get_rng_state()
    graph_of(ours)
    assert seen == [(1, len(IDS), 16)]
    handle.remove()
    assert torch.equal(torch.random.get_rng_state(), state)
    after = ours.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not inner._forward_hooks


def test_a_layer_that_gives_something_else_in_the_run_is_refused():
    model = adapted()
    ours = opened(model)
    inner = model.base_model.model.model.layers[1].self_attn.q_proj._original_component
    handle = inner.register_forward_hook(lambda m, x, y: 2 * y)
    with pytest.raises(ModelError, match=r"self_attn.q.*in this run.*merge_and_unload"):
        graph_of(ours)
    handle.remove()
    graph_of(ours)


def test_dropout_of_an_adapter_in_training_mode_is_refused():
    ours = opened(adapted(lora_dropout=0.5)).train()
    with pytest.raises(ModelError, match="training mode"):
        graph_of(ours)


def test_an_adapter_that_is_not_linear_is_refused():
    ours = opened(adapted())
    inner = ours.blocks[0].attn.o._original_component

    class Bent(type(inner.lora_A["default"])):
        def forward(self, x):
            return super().forward(x).tanh()

    inner.lora_A["default"].__class__ = Bent
    with pytest.raises(ModelError, match=r"not linear in its input.*merge_and_unload"):
        graph_of(ours)


def test_an_adapter_that_acts_on_some_positions_only_is_refused():
    if "alora_invocation_tokens" not in peft.LoraConfig.__dataclass_fields__:
        pytest.skip("this peft has no activated LoRA")
    config = {"alora_invocation_tokens": [3, 4], "task_type": "CAUSAL_LM"}
    ours = opened(adapted(target_modules=LLAMA[:7], **config))
    with pytest.raises(ModelError, match="acts on some positions only"):
        graph_of(ours)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_an_adapter_in_the_prompt_is_refused(kind):
    config = getattr(peft, kind)(num_virtual_tokens=3, task_type="CAUSAL_LM")
    ours = bridge("tiny-llama", quietly(peft.get_peft_model, tiny.hf_llama(), config).eval())
    with pytest.raises(ModelError, match=f"{kind}.*belong to no token"):
        graph_of(ours)


def test_a_model_that_gives_more_rows_than_tokens_is_refused(monkeypatch):
    ours = tiny.llama()
    run = ours.run_with_hooks

    def longer(tokens, **options):
        return torch.cat([run(tokens, **options)] * 2, dim=1)

    monkeypatch.setattr(ours, "run_with_hooks", longer)
    with pytest.raises(ModelError, match="10 rows of logits for 5 tokens"):
        graph_of(ours)
