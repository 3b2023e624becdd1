"""docs/compatibility.md says what was measured, and a sample of it is measured again."""

import os
import time
from importlib.metadata import version

import pytest

pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges to open these with")

from tests import tiny
from tests.families import build, table
from tests.families.measure import each, measured

HERE = {name: version(name) for name in table.RELEASES}
# One of each kind of verdict; the whole table is measured by `make compatibility`.
SAMPLE = (
    "Gemma3ForConditionalGeneration",
    "MambaForCausalLM",
    "MptForCausalLM",
    "OlmoeForCausalLM",
    "QwenForCausalLM",
    "T5ForConditionalGeneration",
    "ViTModel",
)


def locked():
    data = table.kept("locked")
    if data["releases"] != HERE:
        pytest.skip(f"the table was made with {data['releases']}")
    return {row["family"]: row for row in data["families"]}


def test_the_page_is_what_its_data_say():
    assert table.PAGE.read_text(encoding="utf-8") == table.page()


def test_every_name_of_the_registry_has_a_row():
    assert list(locked()) == list(build.names())


@pytest.mark.parametrize("environment", table.ENVIRONMENTS)
def test_no_family_fails_with_a_raw_error_or_takes_two_seconds(environment):
    rows = table.kept(environment)["families"]
    assert [row["family"] for row in rows if table.failed(row["verdict"])] == []
    assert [row["family"] for row in rows if row.get("seconds", 0) > 2] == []


@pytest.mark.parametrize("environment", table.ENVIRONMENTS)
def test_what_is_exact_predicts_what_the_hugging_face_model_does(environment):
    rows = [row for row in table.kept(environment)["families"] if row["verdict"] == "exact"]
    assert len(rows) > 50
    for row in rows:
        assert row["error"] < 1e-6, row
        assert row["own"] is None or row["own"] < 1e-6, row


@pytest.mark.parametrize("name", SAMPLE)
def test_a_family_still_has_the_verdict_of_the_table(name):
    assert measured(name)["verdict"] == locked()[name]["verdict"]


def test_a_crash_an_error_and_an_endless_loop_are_rows():
    def work(name):
        if name == "crash":
            os._exit(3)
        if name == "error":
            raise KeyError("gone")
        if name == "loop":
            time.sleep(60)
        return {"family": name, "verdict": "exact"}

    rows = list(each(["crash", "error", "loop", "fine"], work, limit=2))
    assert [row["family"] for row in rows] == ["crash", "error", "loop", "fine"]
    crash, error, loop, fine = (row["verdict"] for row in rows)
    assert crash.startswith("raw: its process ended with status")
    assert error == "raw: KeyError in work: 'gone'"
    assert loop == "raw: it took too long"
    assert fine == "exact"
    assert all(map(table.failed, (crash, error, loop))) and not table.failed(fine)


def test_an_error_that_is_none_of_ours_is_told_from_a_refusal():
    assert table.failed("refused: IndexError: index 0 is out of bounds")
    assert table.failed("refused: PerLayerGeometryError: no")
    assert not table.failed("refused: blocks.0 of gpt2 has no attn; only blocks of both")


def test_a_verdict_is_shortened_to_its_first_clause():
    short = table.shortened("refused: tiny-XForCausalLM is an encoder (it says so); only decoders")
    assert short == "refused: an encoder (it says so)"
    assert table.shortened("refused: blocks.0 of tiny-X has no attn. More") == (
        "refused: blocks.0 has no attn"
    )


def test_sizes_are_small_and_one_of_each_kind_of_layer_is_kept():
    config = build.config_of("Gemma3ForCausalLM")
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (2, 32, 60)
    assert config.layer_types == ["sliding_attention", "full_attention"]
    assert config.architectures == ["Gemma3ForCausalLM"]
    smollm = build.config_of("SmolLM3ForCausalLM")
    assert smollm.no_rope_layers == [1, 0]


def test_a_family_that_cannot_be_made_says_why():
    with pytest.raises(build.CannotBuildError, match="comes with its weights"):
        build.bridge("QwenForCausalLM")
    with pytest.raises(build.CannotBuildError, match="a format of checkpoints"):
        build.bridge("NanoGPTForCausalLM")


def test_opening_a_model_that_reads_pictures_too_installs_nothing(monkeypatch):
    import subprocess

    import visit_tl as vt

    def install(*args, **options):
        raise AssertionError(f"{args} was called")

    # TransformerLens would install torchvision with pip, and with it another torch.
    monkeypatch.setattr(subprocess, "check_call", install)
    hf = build.hf_model("Gemma3ForConditionalGeneration")
    model = vt.load_model(hf, tokenizer=tiny.tokenizer())
    assert vt.check(model).exact
