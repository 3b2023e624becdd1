"""The report on a model: what it says, that it never raises, and how it is shown."""

import dataclasses
import html
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES
from tests.conftest import made
from visit_tl.checks.laws import LENS_LAW
from visit_tl.checks.report import CheckReport, LawError

LAWS = [
    "memory values x attention = head",
    "heads + b_O = attn_out",
    "resid_pre + attn_out = resid_mid",
    "neurons + b_out = mlp_out",
    "resid_pre + parts = resid_post",
    LENS_LAW,
]


def bridge(name):
    pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges")
    return ARCHITECTURES[name].bridge()


def report(**changes):
    plain = CheckReport(
        model="m", class_name="C", transformer_lens="4", n_layers=2, norm="LN", positions="learned",
        attention="1 heads", mlp="plain", blocks="sequential", dtype="float32",
        laws=(LawError("a = b", "hook_z", 1e-7),), missing=(), tolerance=1e-4, reason=None,
        patching="rows", tested="all",
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_every_small_model_is_exact_and_each_law_is_measured(model):
    found = vt.check(model)
    assert found.verdict == "exact" and found.exact and found.reason is None
    assert [law.law for law in found.laws] == LAWS
    assert all(0 <= law.error < 1e-5 for law in found.laws)
    assert all(law.hook.startswith("blocks.") for law in found.laws)
    assert found.max_error == max(law.error for law in found.laws)
    assert found.tolerance == 1e-4 and found.n_layers == 2 and found.dtype == "float32"


def test_the_public_name_is_the_function_however_often_it_is_asked_for():
    import visit_tl.checks  # noqa: F401

    assert vt.check is vt.check and callable(vt.check)


@pytest.mark.parametrize(
    ("name", "field", "text"),
    [
        ("gpt2", "norm", "LN before each sub-block"),
        ("gpt2", "positions", "learned"),
        ("gpt2", "attention", "4 heads, 4 K/V heads"),
        ("gpt2", "blocks", "sequential"),
        ("bloom", "positions", "alibi"),
        ("bloom", "mlp", "plain, BloomGelu"),
        ("opt", "mlp", "plain, ReLU"),
        ("gpt-neo", "attention", "4 heads, 4 K/V heads, 1 of 2 blocks local (window 3)"),
        ("mistral", "attention", "4 heads, 2 K/V heads, 2 of 2 blocks local (window 3)"),
        ("llama", "mlp", "gated, SiLU"),
        ("phi", "blocks", "parallel"),
        ("gemma2", "norm", "RMS before and after each sub-block"),
        ("gemma2", "attention", "4 heads, 2 K/V heads, 1 of 2 blocks local (window 3)"),
        ("olmo2", "norm", "RMS after each sub-block; query and key norms"),
        ("mixtral", "mlp", "mixture of 4 experts, 2 chosen for a token"),
    ],
)
def test_what_a_model_is(name, field, text):
    assert getattr(vt.check(bridge(name)), field) == text


def test_a_model_that_is_refused_is_a_verdict():
    model = tiny.gpt2(resid_pdrop=0.1)
    model.original_model.train()
    found = vt.check(model)
    assert not found.exact and found.laws == () and found.missing is None
    assert found.verdict.startswith("refused: ") and "training mode" in found.verdict
    assert found.max_error is None and "not tried" in str(found)


@pytest.mark.parametrize("thing", [None, 3, torch.nn.Linear(2, 2), SimpleNamespace()])
def test_what_is_no_model_is_refused_as_well(thing):
    found = vt.check(thing)
    assert found.verdict.startswith("refused: ") and "no TransformerLens model" in found.verdict
    assert found.class_name == type(thing).__name__ and found.n_layers is None


def test_a_model_that_breaks_while_it_runs_is_refused_with_its_own_words():
    model = bridge("gpt2")

    def broken(*_, **__):
        raise RuntimeError("no such\nkernel")

    model.run_with_hooks = broken
    assert vt.check(model).verdict == "refused: RuntimeError: no such kernel"


def test_parts_that_do_not_sum_are_named_with_their_error_and_hook():
    model = bridge("gpt2")
    out = model.blocks[1].mlp.out.original_component
    handle = out.register_forward_hook(lambda module, args, output: output * 1.5)
    found = vt.check(model)
    handle.remove()
    assert found.reason is not None and not found.exact
    assert found.reason.startswith("neurons + b_out = mlp_out is off by 0.33 of the whole at ")
    assert "blocks.1.hook_mlp_out (tolerance 1e-04)" in found.reason
    assert "torch's own hooks on blocks.1.mlp.c_proj" in found.reason
    broken = {law.law for law in found.laws if law.error > 1e-4}
    assert broken == {"neurons + b_out = mlp_out"}


def test_a_nan_is_refused():
    model = bridge("gpt2")
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    assert "NaN" in vt.check(model).verdict


def test_hooks_that_stay_silent_are_listed_and_are_no_refusal():
    found = vt.check(bridge("gpt-neox"))
    assert found.exact
    assert found.missing == ("blocks.0.attn.hook_rot_q", "blocks.0.attn.hook_rot_k")
    assert "blocks.0.attn.hook_rot_q, blocks.0.attn.hook_rot_k" in str(found)
    assert vt.check(made("gpt2")).missing == ()


def test_the_model_is_left_as_it_was(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    state, training, grad = torch.get_rng_state(), model.training, torch.is_grad_enabled()
    vt.check(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, torch.is_grad_enabled()) == (training, grad)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_way_of_patched_runs_is_tried():
    assert vt.check(tiny.llama()).patching.startswith("rows: ")
    found = vt.check(made("native")).patching
    if tiny.HAS_BRIDGE:
        assert found.startswith("blocks (slow): all positions are run, because blocks.0 of native")
        assert "arguments tried" in found


def test_generation_is_held_against_whole_forward_passes(monkeypatch):
    model = made("native")
    assert vt.check(model).generation.startswith("model.generate says what the model says (off by")
    own = type(model).generate

    def forgetful(self, tokens, **options):
        """As a cache that is never written to: each step sees the last token alone."""
        if options.get("use_past_kv_cache", True) is False:
            return own(self, tokens, **options)
        for i in range(options["max_new_tokens"]):
            logits = self(tokens if i == 0 else tokens[:, -1:])
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        return tokens

    monkeypatch.setattr(type(model), "generate", forgetful)
    found = vt.check(model)
    assert found.exact and found.generation.startswith("WRONG: model.generate is off by ")
    assert found.generation.endswith(
        "loses earlier tokens; visit_tl.generate is right, and so is "
        "model.generate(..., use_past_kv_cache=False)"
    )
    monkeypatch.setattr(type(model), "generate", lambda self, tokens, **_: 1 / 0)
    assert vt.check(model).generation.startswith("not tried: model.generate failed with ZeroDiv")


def test_the_tested_releases_are_named_and_a_newer_one_is_said(monkeypatch):
    from visit_tl import releases

    assert "transformers 4.51.0 to 5.24.0 (here " in str(vt.check(made("native")))
    here = {"transformers": "5.24.0", "transformer-lens": "4.3.0"}
    monkeypatch.setattr(releases, "installed", here.get)
    assert releases.newer() is None
    here["transformers"] = "5.9.1"  # older than 5.24, though not as text
    assert releases.newer() is None
    here["transformers"] = "5.25.0.dev0"
    assert releases.newer() == (
        "Installed is transformers 5.25.0.dev0 (tested up to 5.24.0), which is newer than what "
        "this release of visit_tl was tested with, and may be the cause."
    )
    model = tiny.gpt2()
    model.run_with_hooks = lambda *_, **__: 1 / 0
    assert vt.check(model).reason.endswith("was tested with, and may be the cause.")


def test_a_model_without_a_tokenizer_is_checked(monkeypatch):
    model = bridge("gpt2")
    model.tokenizer = None
    assert vt.check(model).exact


def test_the_kernel_that_reads_is_named(monkeypatch):
    monkeypatch.setenv("VISIT_TL_READOUT", "torch:100x200")
    assert vt.check(bridge("gpt2")).readout == "torch:100x200 (set by VISIT_TL_READOUT)"


def test_the_text_is_one_line_a_fact_in_columns():
    lines = str(report(reason="not\nthis <one>")).splitlines()
    assert lines[0] == "model            m"
    assert "a = b            1.0e-07 at hook_z" in lines
    assert lines[-7:] == [
        "tolerance        1e-04",
        "hooks missing    none",
        "patching         rows",
        "generation       not tried",
        "readout          not tried",
        "tested with      all",
        "verdict          refused: not this <one>",
    ]


def test_the_html_is_escaped():
    nasty = '<img src=x onerror="alert(1)">&'
    page = report(model=nasty, norm=nasty, missing=(nasty,), reason=nasty)._repr_html_()
    assert nasty not in page and page.count(html.escape(nasty)) == 4
    assert page.startswith("<table>") and page.count("<tr>") == page.count("</tr>") == 18


def test_tables_of_several_models_go_together():
    frames = [r.to_dataframe() for r in (report(), report(model="n", laws=(), reason="why"))]
    table = pd.concat(frames)
    assert list(table.index) == ["m", "n"]
    assert table.loc["m", "a = b"] == 1e-7 and pd.isna(table.loc["n", "a = b"])
    assert table["verdict"].tolist() == ["exact", "refused: why"]
    assert table["exact"].tolist() == [True, False]


def test_reports_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().model = "other"


@pytest.mark.parametrize(("dropout", "code"), [(0.0, 0), (0.1, 1)])
def test_the_command_prints_the_report_and_says_so_by_its_exit_code(dropout, code, monkeypatch):
    import visit_tl.model.load as load
    from visit_tl.cli import app

    model = tiny.gpt2(resid_pdrop=dropout)
    model.original_model.train(bool(dropout))
    monkeypatch.setattr(load, "load_model", lambda name, **_: model)
    result = CliRunner().invoke(app, ["check", "gpt2"])
    assert result.exit_code == code
    assert result.output.strip() == str(vt.check(model))


def test_the_command_says_in_one_line_what_cannot_be_loaded(monkeypatch):
    import visit_tl.model.load as load
    from visit_tl.cli import app

    def refuse(name, **_):
        raise vt.ModelError(f"{name} is not there")

    monkeypatch.setattr(load, "load_model", refuse)
    result = CliRunner().invoke(app, ["check", "nothing"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "visit-tl: nothing is not there\n"
