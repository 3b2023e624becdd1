"""The embedded SmolLM2-135M: the numbers that the README promises, on real weights."""

import pytest
import torch

import visit_tl as vt

pytestmark = pytest.mark.model

JAPAN = "The capital of Japan is the city of"
IOI = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def japan(smol):
    return vt.flow_graph(smol, JAPAN, target=" Tokyo")


@pytest.fixture(scope="module")
def ioi(smol):
    return vt.flow_graph(smol, IOI, target=" Mary", prepend_bos=False)


def test_the_last_node_reads_tokyo(smol, japan):
    bare = vt.flow_graph(smol, JAPAN, layers=[29], prepend_bos=False)
    assert japan.prepend_bos and japan.tokens[0] == "<|im_start|>"
    assert (japan["logits"].label, japan["logits"].rank) == (" Tokyo", 0)
    assert japan["logits"].prob == pytest.approx(0.758, abs=0.01)
    assert not bare.prepend_bos and bare.tokens[0] == "The"
    assert (bare.target, bare["logits"].prob) == (" Tokyo", pytest.approx(0.854, abs=0.01))


def test_the_indirect_object_is_mary_with_and_without_bos(smol, ioi):
    with_bos = vt.flow_graph(smol, IOI, target=" Mary", layers=range(22, 30))
    assert with_bos["logits"].prob == pytest.approx(0.836, abs=0.01)
    assert ioi["logits"].prob == pytest.approx(0.923, abs=0.01)
    assert with_bos["logits"].label == ioi["logits"].label == " Mary"


def test_a_name_mover_and_a_negative_name_mover_are_found(ioi):
    assert (ioi["L29H1"].label, ioi["L29H1"].rank) == (" Mary", 0)
    assert ioi["L29H0"].rank == ioi.d_vocab - 1 == 49151
    assert ioi["L29H0"].bottom[0].token == " Mary"


def test_every_block_of_the_real_model_conserves(japan, ioi):
    for graph in (japan, ioi):
        assert set(graph.residual_error) == set(range(30))
        assert max(graph.residual_error.values()) < 1e-4


def test_the_lens_of_the_last_resid_post_is_the_models_distribution(smol, japan):
    with torch.no_grad():
        own = smol(smol.to_tokens(JAPAN))[0, -1].softmax(-1)
    node = japan["L29.resid_post"]
    for read in (*node.top, *node.bottom):
        assert read.prob == pytest.approx(float(own[read.id]), abs=1e-5)
    assert [t.id for t in node.top] == own.topk(5).indices.tolist()


def test_the_memory_key_and_the_query_give_the_score_that_the_model_used(smol):
    from visit_tl import ModelView, Trace
    from visit_tl.model import components

    view = ModelView(smol)
    prompt = view.tokens.encode(IOI, None)
    trace = Trace.run(view, prompt)
    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in trace.layers]
    cache = smol.run_with_cache(torch.tensor([prompt.ids]), names_filter=names)[1]
    for name, (layer, t) in zip(names, trace.layers.items(), strict=True):
        w = view.weights(layer)
        kv = view.kv_head(w.W_K.shape[0])
        for h in range(view.n_heads):
            readings = components.key_readings(
                t.keys[:, kv[h]], w.W_Q[h].expand(len(prompt.ids), -1, -1), t.rotation
            )
            ours = readings @ t.attn_in / 8
            torch.testing.assert_close(ours, cache[name][0, h, -1], atol=1e-4, rtol=1e-5)


def test_broken_tokens_of_a_real_vocabulary_are_shown_as_bytes(smol):
    from visit_tl import ModelView

    tokens = ModelView(smol).tokens
    texts = [tokens.text(i) for i in range(49152)]
    # The vocabulary has one token that really is U+FFFD, the character for broken text.
    assert [text for text in texts if "\N{REPLACEMENT CHARACTER}" in text] == [
        "\N{REPLACEMENT CHARACTER}"
    ]
    assert all(texts)
    assert sum("<0x" in text for text in texts) > 100


def test_a_chat_template_gives_one_bos_as_transformers_reads_it(smol):
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    text = smol.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    graph = vt.flow_graph(smol, text, layers=[29], heads=1, neurons=1)
    assert list(graph.token_ids) == smol.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert graph.tokens[:2] == ("<|im_start|>", "system") and graph.tokens[-1] == "\n"
    assert (graph.prepend_bos, graph.bos_in_prompt) == (False, True)
    hello = vt.flow_graph(smol, smol.tokenizer.bos_token + "Hello", layers=[29], heads=1, neurons=1)
    assert hello.tokens == ("<|im_start|>", "Hello")
    assert hello.nodes == vt.flow_graph(smol, "Hello", layers=[29], heads=1, neurons=1).nodes


def test_lacking_its_space_a_target_is_told_so(smol):
    with pytest.raises(vt.InputError, match="did you mean ' Tokyo', with its space"):
        vt.flow_graph(smol, JAPAN, target="Tokyo")


def test_the_answer_mary_is_walked_back_to_the_mary_of_the_prompt(smol):
    graph = vt.flow_graph(smol, IOI, positions=[1], prepend_bos=False, max_nodes=700)
    assert [(c.position, graph.tokens[1]) for c in graph.columns] == [(1, " Mary")]
    assert max(graph.columns[0].residual_error.values()) < 1e-4
    way = graph.route("L0.resid_pre@1")
    assert str(way[-1].target) == "logits"
    through = [graph[edge.target] for edge in way if edge.target.kind == "value"]
    assert [node.token for node in through] == [" Mary"]
    plain = vt.flow_graph(smol, IOI, prepend_bos=False)
    assert 0 < len(graph) - len(plain) <= 700
