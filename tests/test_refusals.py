"""What cannot be opened or asked is refused by name, with the remedy."""

import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl import InputError, ModelError, ModelView

PROMPT = "a b c"


class TestPromptsAndTargets:
    @pytest.mark.parametrize("prompt", ["", [], torch.tensor([])])
    def test_an_empty_prompt(self, native, prompt):
        with pytest.raises(InputError, match="the prompt is empty; give at least one"):
            vt.flow_graph(native, prompt)

    def test_a_prompt_longer_than_the_context_is_not_cut(self, native):
        with pytest.raises(
            InputError, match="has 41 tokens, but native has a context of 32; shorten"
        ):
            vt.flow_graph(native, "a" * 40)

    def test_an_id_outside_the_vocabulary(self, native):
        with pytest.raises(InputError, match=r"token id 60 is outside 0\.\.59 of native"):
            vt.flow_graph(native, [1, 60])

    def test_a_batch(self, native):
        with pytest.raises(InputError, match=r"a batch of 2 was given; pass one row, tokens\[i\]"):
            vt.flow_graph(native, torch.tensor([[1, 2], [3, 4]]))

    def test_numbers_that_are_no_ids(self, native):
        with pytest.raises(InputError, match=r"token ids are integers, but torch\.float32"):
            vt.flow_graph(native, torch.tensor([1.5]))

    def test_a_target_that_lacks_its_space_is_told_so(self, native):
        with pytest.raises(InputError, match=r"'a ' is 2 tokens of native: 'a' \+ ' '; choose"):
            vt.flow_graph(native, PROMPT, target="a ")

    def test_a_target_that_no_token_spells_is_said_to_be_none(self, native):
        with pytest.raises(InputError) as error:
            vt.flow_graph(native, PROMPT, target="zz")
        assert "'zz' is no token of native, nor made of its tokens" in str(error.value)
        assert "0 tokens" not in str(error.value)

    def test_a_target_of_several_tokens_is_shown_as_it_splits(self, native):
        with pytest.raises(InputError, match=r"'abc' is 3 tokens of native: 'a' \+ 'b' \+ 'c'"):
            vt.flow_graph(native, PROMPT, target="abc")

    @pytest.mark.parametrize("target", ["", True])
    def test_a_target_that_is_none(self, native, target):
        with pytest.raises(InputError, match="one token, as text or as id"):
            vt.flow_graph(native, PROMPT, target=target)

    def test_text_for_a_model_without_a_tokenizer(self):
        with pytest.raises(InputError, match="has no tokenizer; pass the prompt as token ids"):
            vt.flow_graph(tiny.hand_set(), "hello")


class TestRanges:
    @pytest.mark.parametrize("layers", [2, -1, [0, 7]])
    def test_a_layer_that_is_not_there(self, native, layers):
        with pytest.raises(InputError, match=r"layer (2|-1|7) is outside 0\.\.1 of native"):
            vt.flow_graph(native, PROMPT, layers=layers)

    def test_no_layer(self, native):
        with pytest.raises(InputError, match=r"no layers were chosen; native has 0\.\.1"):
            vt.flow_graph(native, PROMPT, layers=[])

    def test_layers_with_a_gap(self):
        with pytest.raises(InputError, match=r"\[0, 2\] have a gap; .* such as range\(0, 3\)"):
            vt.flow_graph(tiny.native(n_layers=3), PROMPT, layers=[0, 2])

    @pytest.mark.parametrize("position", [6, -7])
    def test_a_position_outside_the_prompt(self, native, position):
        with pytest.raises(InputError, match=r"position -?\d is outside the prompt, which has 4 t"):
            vt.flow_graph(native, PROMPT, position=position)

    def test_an_unknown_preset(self, native):
        with pytest.raises(InputError, match="'best' is unknown; the presets are default, paper"):
            vt.flow_graph(native, PROMPT, preset="best")


class TestModels:
    def test_something_that_is_no_model(self):
        with pytest.raises(
            ModelError, match="Linear is no TransformerLens model .* visit_tl.load_mo"
        ):
            vt.flow_graph(torch.nn.Linear(2, 2), PROMPT)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_numbers_name_the_parameter(self, value):
        model = tiny.native()
        with torch.no_grad():
            model.blocks[1].mlp.out.original_component.weight[3, 2] = value
        with pytest.raises(
            ModelError, match=r"the parameter \S*1\S*fc_out\S*weight of native holds"
        ):
            ModelView(model)

    def test_large_but_finite_weights_are_not_taken_for_nan(self):
        model = tiny.native()
        with torch.no_grad():
            model.embed.original_component.weight.fill_(3e38)
        ModelView(model)

    def test_an_encoder(self):
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(
            num_hidden_layers=1,
            num_attention_heads=2,
            hidden_size=8,
            intermediate_size=8,
            vocab_size=60,
        )
        model = TransformerBridge.boot_transformers(
            "google-bert/bert-base-cased",
            hf_model=BertForMaskedLM(config).eval(),
            tokenizer=tiny.tokenizer(),
        )
        with pytest.raises(ModelError, match="is an encoder .* only decoders"):
            ModelView(model)

    def test_an_encoder_decoder(self):
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(
            num_layers=1,
            num_heads=2,
            d_model=8,
            d_ff=8,
            d_kv=4,
            vocab_size=60,
            decoder_start_token_id=0,
        )
        model = TransformerBridge.boot_transformers(
            "google-t5/t5-small",
            hf_model=T5ForConditionalGeneration(config).eval(),
            tokenizer=tiny.tokenizer(),
        )
        with pytest.raises(ModelError, match="is an encoder-decoder; .* only decoders"):
            ModelView(model)

    def test_a_model_that_would_drop_out(self):
        model = tiny.gpt2(resid_pdrop=0.1)
        model.original_model.train()
        with pytest.raises(ModelError, match=r"in training mode and would drop out .*model\.eval"):
            ModelView(model)

    def test_rotary_positions_whose_angles_are_not_those_of_the_attention(self):
        model = tiny.native(positional_embedding_type="rotary")
        vt.flow_graph(model, PROMPT)
        from visit_tl.model import rotary, rotary_tables

        tables = rotary_tables.stored_angles(model.blocks[0].attn)
        query, keys = torch.randn(4, 4), torch.randn(6, 4, 4)
        pattern, each = torch.rand(4, 6).softmax(-1), torch.arange(4)
        seen = rotary.Seen(query, keys, pattern, 5, None, None, each, "blocks.0.attn")
        with pytest.raises(ModelError, match="do not turn hook_q and hook_k into its attention"):
            rotary.find_way(tables, seen)

    def test_a_norm_that_computes_something_unknown(self):
        from visit_tl.model.norm import read_norm

        class StrangeRMSNorm(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.exponent = torch.nn.Parameter(torch.ones(4))

        with pytest.raises(ModelError, match="StrangeRMSNorm has parameters but no weight"):
            read_norm(StrangeRMSNorm(), 1e-5)
        with pytest.raises(ModelError, match="Softmax is neither a LayerNorm nor an RMSNorm"):
            read_norm(torch.nn.Softmax(-1), 1e-5)

    def test_a_missing_hook_is_named(self, native):
        view = ModelView(native)
        gone = {"blocks.1.attn.hook_pattern"}
        view.__dict__["_hooks"] = frozenset(view._hooks - gone)
        with pytest.raises(
            ModelError, match=r"has no hook blocks\.1\.attn\.hook_pattern, from which"
        ):
            vt.Trace.run(view, view.tokens.encode(PROMPT, None))
