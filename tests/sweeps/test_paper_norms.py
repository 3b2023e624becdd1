"""Studies of norms against loops with the models' own modules."""

import pandas as pd
import pytest
import torch

from tests import tiny
from tests.sweeps.twins import (
    NAMES,
    PROMPTS,
    cache_of,
    close,
    decoder,
    lens,
    ordered,
    prompts_of,
    refusals,
    rows,
)
from visit_tl.errors import InputError
from visit_tl.model.view import ModelView
from visit_tl.sweeps.options import quarter_points
from visit_tl.sweeps.paper import mean_states
from visit_tl.sweeps.paper.norm_filter import (
    largest_changes,
    ln_filter,
    ln_losers,
    ln_top_tokens,
    ln_without_lnf,
)
from visit_tl.sweeps.prompt_run import SweptModel

STUDIES = (ln_filter, ln_losers, ln_top_tokens, ln_without_lnf)
HAS_LN1 = [name for name in NAMES if "folded" not in name]
HAS_LN2 = [name for name in HAS_LN1 if name != "gptj"]
AROUND = [(name, "ln1") for name in HAS_LN1] + [(name, "ln2") for name in HAS_LN2]
around = pytest.mark.parametrize(("name", "norm"), AROUND)


def states(model, cache, norm, layer):
    """The state before and after a norm, at the last token."""
    parallel = getattr(model.cfg, "parallel_attn_mlp", False)
    hook = "hook_resid_pre" if norm == "ln1" or parallel else "hook_resid_mid"
    before = cache[f"blocks.{layer}.{hook}"][0, -1]
    with torch.no_grad():
        return before, getattr(model.blocks[layer], norm)(before[None, None])[0, 0]


def check_moved(name, model, norm, table, cache, target, k, apply_norm):
    """All rows of tokens that are followed or move, but for the control."""
    for layer, part in table.groupby("layer"):
        before, after = (
            lens(name, model, x, apply_norm) for x in states(model, cache, norm, layer)
        )
        assert set(part["norm"]) == {norm}
        ids = part["token_id"].tolist()
        close(part["before"], before[ids])
        close(part["after"], after[ids])
        close(part["difference"], (after.double() - before.double())[ids])
        assert part["token"].tolist() == [ModelView(model).tokens.text(i) for i in ids]
        change = after - before
        wanted = {"mover": change.abs(), "gainer": change, "loser": -change}
        for kind, own in part.groupby("kind"):
            assert own["rank"].tolist() == list(range(len(own)))
            if kind in wanted:
                ordered(own["token_id"], wanted[kind], k)
            if kind == "target":
                assert own["token_id"].tolist() == [target]


@around
def test_ln_filter_equals_loops(name, norm):
    model = decoder(name)
    study = ln_filter.having(norm=norm, words=" a| b|c", movers=4, layers="all")
    prompts = prompts_of(model)
    for prompt, table in zip(prompts, rows(model, study, prompts), strict=True):
        cache, target = cache_of(model, prompt)
        assert table["layer"].tolist() == [0] * 8 + [1] * 8
        assert table["kind"].tolist() == (["word"] * 3 + ["target"] + ["mover"] * 4) * 2
        assert table["token"].tolist()[:3] == [" a", " b", "c"]
        check_moved(name, model, norm, table, cache, target, 4, True)
        check_control(name, model, norm, table, cache, prompt.index, True)


@around
def test_without_the_final_norm(name, norm):
    model = decoder(name)
    study = ln_without_lnf.having(norm=norm, movers=3, layers="all")
    prompts = prompts_of(model)
    for prompt, table in zip(prompts, rows(model, study, prompts), strict=True):
        cache, target = cache_of(model, prompt)
        kinds = ["target", *["mover"] * 3, *["loser"] * 3, *["gainer"] * 3]
        part = table[table["layer"] == 1]
        assert part["kind"].tolist() == ["word", *kinds]
        assert part["token"].tolist()[0] == " a"
        check_moved(name, model, norm, table, cache, target, 3, False)
        check_control(name, model, norm, table, cache, prompt.index, False)


def check_control(name, model, norm, table, cache, index, apply_norm):
    """A vector as long as the state, with normal entries: those of its prompt's own generator."""
    generator = torch.Generator().manual_seed(index)
    drawn = torch.randn(model.cfg.n_layers, model.cfg.d_model, generator=generator)
    for layer, part in table.groupby("layer"):
        state, _ = states(model, cache, norm, layer)
        vector = drawn[layer] * (state.norm() / drawn[layer].norm())
        with torch.no_grad():
            normed = getattr(model.blocks[layer], norm)(vector[None, None])[0, 0]
        before, after = (lens(name, model, x, apply_norm) for x in (vector, normed))
        ids = part["token_id"].tolist()
        close(part["control_before"], before[ids])
        close(part["control_after"], after[ids])
        close(part["control_difference"], (after.double() - before.double())[ids])


@around
@pytest.mark.parametrize("apply_norm", [True, False])
def test_ln_losers_equals_loops(name, norm, apply_norm):
    model = decoder(name)
    study = ln_losers.having(norm=norm, k=5, apply_norm=apply_norm)
    prompts = prompts_of(model)
    for prompt, table in zip(prompts, rows(model, study, prompts), strict=True):
        cache, target = cache_of(model, prompt)
        assert table["kind"].tolist() == (["loser"] * 5 + ["gainer"] * 5) * 2
        check_moved(name, model, norm, table, cache, target, 5, apply_norm)


@around
def test_ln_top_tokens_equals_loops(name, norm):
    model = decoder(name)
    prompts = prompts_of(model)
    study = ln_top_tokens.having(norm=norm)
    for prompt, table in zip(prompts, rows(model, study, prompts), strict=True):
        cache, _ = cache_of(model, prompt)
        assert len(table) == 2 * 2 * 10
        for (layer, side), part in table.groupby(["layer", "side"]):
            before, after = states(model, cache, norm, layer)
            probs = lens(name, model, before if side == "before" else after)
            ordered(part["token_id"], probs, 10)
            close(part["prob"], probs[part["token_id"].tolist()])
            assert part["rank"].tolist() == list(range(10))
            assert set(part["norm"]) == {norm}


@pytest.mark.parametrize("after", ["mean of norms", "norm of mean"])
@around
def test_mean_states_equal_loops(name, norm, after):
    model = decoder(name)
    prompts = prompts_of(model)
    kinds = {"top": {}, "moved": {}}
    for layer in (0, 1):
        pairs = [states(model, cache_of(model, p)[0], norm, layer) for p in prompts]
        before = torch.stack([x for x, _ in pairs]).mean(0)
        mean = torch.stack([x for _, x in pairs]).mean(0)
        if after == "norm of mean":
            with torch.no_grad():
                mean = getattr(model.blocks[layer], norm)(before[None, None])[0, 0]
        kinds["top"][layer] = lens(name, model, before), lens(name, model, mean)
    asked = {"norm": norm, "after": after, "k": 6, "layers": "all"}
    top = mean_states.mean_state_tokens(model, list(PROMPTS), **asked)
    assert list(top) == list(ln_top_tokens.columns)
    moved = mean_states.mean_state_movers(model, list(PROMPTS), **asked)
    assert list(moved) == list(ln_losers.columns)
    for layer, (before, mean) in kinds["top"].items():
        for side, probs in (("before", before), ("after", mean)):
            part = top[(top["layer"] == layer) & (top["side"] == side)]
            ordered(part["token_id"], probs, 6)
            close(part["prob"], probs[part["token_id"].tolist()])
        for kind, change in (("loser", before - mean), ("gainer", mean - before)):
            part = moved[(moved["layer"] == layer) & (moved["kind"] == kind)]
            ordered(part["token_id"], change, 6)
            close(part["before"], before[part["token_id"].tolist()])
            close(part["after"], mean[part["token_id"].tolist()])


def test_the_mean_of_one_prompt_is_its_study(native):
    table = mean_states.mean_state_tokens(native, [PROMPTS[0]], layers=1)
    own = rows(native, ln_top_tokens.having(layers=1), prompts_of(native)[:1])[0]
    pd.testing.assert_frame_equal(table, own, check_exact=False, check_dtype=False)


def test_mean_states_say_what_is_wrong(native):
    with pytest.raises(InputError, match="no prompts"):
        mean_states.mean_state_tokens(native, [])
    with pytest.raises(InputError, match="after is 'mean of norms' or 'norm of mean'"):
        mean_states.mean_state_movers(native, ["a b"], after="both")
    with pytest.raises(InputError, match="ln1 and ln2, got 'ln_f'"):
        mean_states.mean_state_tokens(native, ["a b"], norm="ln_f")


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
@pytest.mark.parametrize("name", [name for name in NAMES if "folded" in name])
def test_folded_norms_are_refused_by_name(name, study):
    for norm in ("ln1", "ln2"):
        (why,) = refusals(decoder(name), study.having(norm=norm))
        assert f"{norm} of blocks.0" in why
        assert "compatibility mode" in why


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_norms_that_are_not_there_are_refused(study):
    (why,) = refusals(decoder("attn-only"), study.having(norm="ln2"))
    assert "no MLP, and so no ln2" in why
    (why,) = refusals(decoder("native"), study.having(norm="ln3"))
    assert "ln1 and ln2, got 'ln3'" in why
    assert rows(decoder("attn-only"), study)
    if tiny.HAS_BRIDGE:
        (why,) = refusals(decoder("gptj"), study.having(norm="ln2"))
        assert "blocks.0 of" in why and "has no ln2" in why
    if tiny.RELEASE >= (4,):  # an older one puts the post-norms of OLMo 2 elsewhere
        (why,) = refusals(decoder("olmo2"), study)
        assert "has no ln1" in why


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": 2}, "layer 2 is outside 0..1"),
        ({"layers": "0,x"}, "'0,x'"),
        ({"layers": True}, "got True"),
        ({"movers": 0}, "movers is an integer of at least 1"),
        ({"control": "none"}, "'gaussian' or 'shuffled'"),
        ({"words": " a| a b"}, "2 tokens"),
    ],
)
def test_options_that_do_not_fit(native, options, said):
    (why,) = refusals(native, ln_filter.having(**options))
    assert said in why


def test_more_tokens_than_there_are(native):
    n = tiny.D_VOCAB
    (table, *_) = rows(native, ln_top_tokens.having(k=1000, layers=0))
    assert len(table) == 2 * n
    close(table["prob"].sum(), 2.0)
    (table, *_) = rows(native, ln_losers.having(k=1000, layers=0))
    losers, gainers = (table[table["kind"] == kind] for kind in ("loser", "gainer"))
    assert losers["token_id"].tolist() == gainers["token_id"].tolist()[::-1]
    close(table["difference"].sum(), 0.0)


def test_the_control_depends_on_nothing_but_the_prompt(native):
    prompts = prompts_of(native)
    every_layer = rows(native, ln_filter, prompts)
    alone = rows(native, ln_filter.having(layers=1), prompts[1:2])[0]
    own = every_layer[1]
    own = own[own["layer"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, own, check_exact=False, rtol=1e-5)
    other = rows(native, ln_filter.having(seed=1), prompts)[1]
    assert not other["control_before"].equals(every_layer[1]["control_before"])
    assert other["before"].equals(every_layer[1]["before"])
    assert not every_layer[0]["control_before"].equals(every_layer[1]["control_before"])


def test_the_shuffled_control_has_the_entries_of_the_state(native):
    """A norm of all entries sees the same mean and size, so without gains nothing would change."""
    prompts = prompts_of(native)[:1]
    table = rows(native, ln_filter.having(control="shuffled", layers=0), prompts)[0]
    cache, _ = cache_of(native, prompts[0])
    state, _ = states(native, cache, "ln1", 0)
    drawn = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    probs = lens("native", native, state[drawn[0].argsort()])
    close(table["control_before"], probs[table["token_id"].tolist()])


def test_ties_go_to_the_lower_token():
    change = torch.tensor([[0.0, 0.5, -0.5, 0.5, -0.5, 0.0]])
    found = largest_changes(change, 3)
    assert found["gainer"].tolist() == [[1, 3, 0]]
    assert found["loser"].tolist() == [[2, 4, 0]]


def test_the_default_words_are_whole_tokens(native):
    (table, *_) = rows(native, ln_filter)
    words = table[table["kind"] == "word"]
    assert set(words["token"]) == {" a"}, "the small tokenizer drops letters that it does not know"


def test_a_model_without_tokenizer_follows_tokens_by_number(native):
    view = ModelView(tiny.hand_set())
    assert view.tokens.text(2) == "<2>"
    model = tiny.native(seed=1)
    model.tokenizer = None
    prompts = prompts_of(native)[:1]
    table = rows(model, ln_filter, prompts, SweptModel(ModelView(model)))[0]
    assert set(table["kind"]) == {"target", "mover"}


def test_quarter_points():
    assert quarter_points(24) == (5, 11, 17, 23)
    assert quarter_points(12) == (2, 5, 8, 11)
    assert quarter_points(30) == (6, 14, 21, 29)
    assert quarter_points(2) == (0, 1)
    assert quarter_points(1) == (0,)


@pytest.mark.parametrize("name", HAS_LN1)
def test_all_layers_and_some(name):
    study = ln_losers.having(k=2)
    tables = [rows(decoder(name), study.having(layers=x))[0] for x in ("all", "0,1", None, "1")]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    assert set(tables[3]["layer"]) == {1}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
@pytest.mark.parametrize("name", HAS_LN1)
def test_all_norms_are_the_rows_of_each(name, study):
    model = decoder(name)
    norms = ("ln1", "ln2") if name in HAS_LN2 else ("ln1",)
    (every,) = rows(model, study.having(norm="all"), prompts_of(model)[:1])
    each = [rows(model, study.having(norm=norm), prompts_of(model)[:1])[0] for norm in norms]
    pd.testing.assert_frame_equal(every, pd.concat(each, ignore_index=True))
