"""Models that transformers has opened: the same numbers, the same weights, and what is refused."""

from __future__ import annotations

import copy
import types

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES
from visit_tl.model.from_transformers import architectures

IDS = [0, 1, 12, 3, 13, 5]

bridges = pytest.mark.skipif(
    not tiny.HAS_BRIDGE, reason="TransformerLens 2.x converts models instead of wrapping them"
)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        found = model(torch.tensor([IDS]))
    return found if isinstance(found, torch.Tensor) else found.logits


def opened(hf_model, **options):
    return vt.load_model(hf_model, tokenizer=tiny.tokenizer(), verbose=False, **options)


def hf_gpt2():
    # TransformerLens 2 knows GPT-2 with MLPs of four times the width only.
    return tiny.hf_gpt2(n_inner=64)


@pytest.mark.parametrize("make", [hf_gpt2, tiny.hf_llama], ids=["gpt2", "llama"])
def test_a_model_of_transformers_is_opened_with_its_numbers(make):
    hf_model = make()
    own = logits(make())
    model = opened(hf_model)
    torch.testing.assert_close(logits(model), own, rtol=1e-5, atol=1e-5)
    assert vt.check(model).exact
    assert model.cfg.model_name == hf_model.config.model_type
    assert vt.flow_graph(model, "a b c").tokens[-3:] == ("a", " b", " c")


@bridges
def test_the_graph_is_that_of_the_bridge_that_is_built_by_hand():
    one = vt.flow_graph(opened(tiny.hf_llama()), IDS)
    other = vt.flow_graph(tiny.bridged(tiny.hf_llama()), IDS)
    difference = one.diff(other)
    assert not (difference.appeared or difference.vanished or difference.changed)
    assert [node.norm for node in one] == [node.norm for node in other]


@bridges
def test_the_weights_are_not_copied_and_the_model_computes_what_it_did():
    hf_model = tiny.hf_llama()
    before, weight = logits(hf_model), hf_model.model.layers[0].mlp.down_proj.weight
    config = hf_model.config.to_dict()
    model = opened(hf_model)
    assert any(parameter is weight for parameter in model.parameters())
    torch.testing.assert_close(logits(hf_model), before, rtol=1e-5, atol=1e-5)
    assert hf_model.config.to_dict() == config


@bridges
def test_half_precision_stays_half_precision():
    model = opened(tiny.hf_llama().to(torch.bfloat16))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.cfg.dtype == torch.bfloat16


@bridges
def test_a_compiled_model_of_transformers_is_opened_too():
    model = opened(torch.compile(tiny.hf_gpt2(), backend="eager"))
    assert torch.equal(logits(model), logits(opened(tiny.hf_gpt2())))


@bridges
@pytest.mark.parametrize("name", ["gptj", "qwen3", "gemma2"])
def test_every_architecture_is_found_though_the_configuration_names_none(name):
    hf_model = ARCHITECTURES[name].hf_model()
    named = hf_model.config.architectures
    hf_model.config.architectures = None
    own = logits(hf_model)
    torch.testing.assert_close(logits(opened(hf_model)), own, rtol=1e-4, atol=1e-4)
    assert hf_model.config.architectures is None
    assert architectures(ARCHITECTURES[name].hf_model()) == named


def test_the_architecture_of_a_class_of_ones_own_is_that_of_transformers():
    hf_model = tiny.hf_gpt2()

    class Mine(type(hf_model)):
        pass

    hf_model.__class__ = Mine
    hf_model.config.architectures = None
    assert architectures(hf_model) == ["GPT2LMHeadModel"]
    other = types.SimpleNamespace(config=types.SimpleNamespace(model_type="llama"))
    assert architectures(other) == ["LlamaForCausalLM"]


# --- tokenizers ----------------------------------------------------------------------------------


def test_the_tokenizer_that_was_given_stays_as_it_was():
    given = copy.deepcopy(tiny.tokenizer())
    before = dict(given.special_tokens_map), given("a b c")["input_ids"], given.padding_side
    model = vt.load_model(tiny.hf_llama(), tokenizer=given, verbose=False)
    assert (dict(given.special_tokens_map), given("a b c")["input_ids"], given.padding_side) == (
        before
    )
    assert model.to_tokens("a b c", prepend_bos=False)[0].tolist() == before[1]


def test_a_tokenizer_without_a_folder_is_enough():
    # TransformerLens opens a tokenizer again by its path, and one made in code has none.
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, bos_token="<bos>", eos_token="<bos>"
    )
    model = vt.load_model(tiny.hf_llama(), tokenizer=bare, verbose=False)
    assert model.to_tokens("a b", prepend_bos=False)[0].tolist() == [1, 13]


def test_the_tokenizer_is_found_in_the_folder_that_the_model_came_from(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny.hf_llama().save_pretrained(tmp_path / "mine")
    tiny.tokenizer().save_pretrained(tmp_path / "mine")
    hf_model = AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    model = vt.load_model(hf_model, verbose=False)
    assert model.to_tokens("a b", prepend_bos=False)[0].tolist() == [1, 13]
    assert model.cfg.model_name == "mine"
    hf_model = AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    for file in (tmp_path / "mine").glob("*token*"):
        file.unlink()
    with pytest.raises(vt.ModelError, match=r"no tokenizer is found there .*tokenizer=AutoToken"):
        vt.load_model(hf_model, verbose=False)


def test_a_model_that_came_from_nowhere_needs_a_tokenizer():
    with pytest.raises(vt.ModelError, match=r"does not say where it came from.*tokenizer="):
        vt.load_model(tiny.hf_llama(), verbose=False)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(vt.InputError, match="must be a tokenizer of transformers, got str"):
        vt.load_model(tiny.hf_llama(), tokenizer="gpt2", verbose=False)


# --- refusals ------------------------------------------------------------------------------------


def test_a_model_of_transformers_is_no_argument_of_a_graph():
    with pytest.raises(
        vt.ModelError, match=r"a model of transformers: pass the result of visit_tl\.load_model\("
    ):
        vt.flow_graph(tiny.hf_llama(), IDS)


@bridges
def test_a_model_inside_a_bridge_is_not_wrapped_twice():
    hf_model = tiny.hf_llama()
    opened(hf_model)
    with pytest.raises(vt.ModelError, match="inside a TransformerBridge already"):
        opened(hf_model)


def test_a_model_without_an_unembedding_is_refused():
    with pytest.raises(vt.ModelError, match="has no unembedding.*AutoModelForCausalLM"):
        opened(tiny.hf_llama().model)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, beside this transformers
@bridges
def test_a_peft_model_is_opened_with_its_adapters():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny.hf_llama(), config).eval()
    twin = logits(copy.deepcopy(adapted).merge_and_unload())
    model = opened(adapted)
    torch.testing.assert_close(logits(model), twin, rtol=1e-5, atol=1e-5)
    assert vt.flow_graph(model, IDS).adapters == ("default",)
    assert vt.check(model).exact


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, beside this transformers
def test_prompt_tuning_around_a_model_is_refused():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapted = peft.get_peft_model(tiny.hf_llama(), config).eval()
    with pytest.raises(vt.ModelError, match="does more than its layers do, as prompt and prefix"):
        opened(adapted)


@pytest.mark.parametrize("option", ["device", "dtype"])
def test_the_callers_model_is_not_moved_or_converted(option):
    with pytest.raises(vt.InputError, match=f"opened already, so {option} cannot be given"):
        opened(tiny.hf_llama(), **{option: "cpu"})


@bridges
def test_an_architecture_that_transformer_lens_does_not_know_is_named():
    hf_model = tiny.hf_llama()
    hf_model.config.architectures = ["UnheardOfForCausalLM"]
    hf_model.config.model_type = "unheard-of"
    with pytest.raises(
        vt.ModelError, match=r"cannot open 'unheard-of'.*Expected a decoder"
    ) as caught:
        opened(hf_model)
    assert "HF_HUB_OFFLINE" not in str(caught.value)


def test_a_model_of_transformer_lens_needs_no_opening():
    with pytest.raises(vt.InputError, match="needs no opening"):
        vt.load_model(tiny.gpt2())
