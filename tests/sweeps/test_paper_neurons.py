"""Studies of neurons against loops over the model's own activations and weights."""

import pandas as pd
import pytest
import torch

from tests import tiny
from tests.sweeps.twins import cache_of, close, decoder, every, lens, prompts_of, refusals, rows
from visit_tl.model.view import ModelView
from visit_tl.sweeps.paper import neurons as module
from visit_tl.sweeps.paper.neurons import (
    neuron_entropy_norm,
    outlier_entries,
    regularisation_neurons,
)
from visit_tl.sweeps.prompt_run import SweptModel

STUDIES = (regularisation_neurons, neuron_entropy_norm, outlier_entries)


def written_rows(name, model, layer):
    """The rows of W_out; after them the gain of a post-norm, read off its own module."""
    rows = model.blocks[layer].mlp.W_out.detach().float()
    if name != "gemma2":
        return rows
    with torch.no_grad():  # of ones, the root mean square is 1
        return rows * model.blocks[layer].ln2_post(torch.ones(1, 1, rows.shape[1]))[0, 0]


def best(activations, weights, order, top):
    """The most active neurons, one by one."""
    score = {
        "signed": lambda i: activations[i],
        "absolute": lambda i: abs(activations[i]),
        "norm": lambda i: abs(activations[i]) * float(weights[i].norm()),
    }[order]
    ranked = sorted(range(len(activations)), key=lambda i: (-score(i), i))
    return [i for i in ranked[:top] if activations[i] != 0]


@pytest.mark.parametrize("order", ["signed", "absolute", "norm"])
@every
def test_regularisation_neurons_equal_loops(name, order):
    model = decoder(name)
    prompts = prompts_of(model)
    study = regularisation_neurons.having(top=7, order=order)
    for prompt, table in zip(prompts, rows(model, study, prompts), strict=True):
        cache, _ = cache_of(model, prompt)
        wanted = []
        for layer in (0, 1):
            own = cache[f"blocks.{layer}.mlp.hook_post"][0, -1].tolist()
            weights = written_rows(name, model, layer)
            wanted += [(layer, i, own[i]) for i in best(own, weights, order, 7)]
        assert table["layer"].tolist() == [row[0] for row in wanted]
        assert table["neuron"].tolist() == [row[1] for row in wanted]
        close(table["activation"], [row[2] for row in wanted])


@every
def test_neuron_entropy_norm_equals_loops(name):
    model = decoder(name)
    prompts = prompts_of(model)[:2]
    tables = rows(model, neuron_entropy_norm.having(top=5, layers="all"), prompts)
    for layer in (0, 1):
        weights = written_rows(name, model, layer)
        probs = [lens(name, model, row) for row in weights]
        entropies = torch.stack([-(p * p.log()).sum() for p in probs])
        norms = torch.stack([row.norm() for row in weights])
        for prompt, table in zip(prompts, tables, strict=True):
            cache, _ = cache_of(model, prompt)
            own = cache[f"blocks.{layer}.mlp.hook_post"][0, -1].tolist()
            part = table[table["layer"] == layer]
            which = best(own, weights, "signed", 5)
            assert part["neuron"].tolist() == which
            close(part["activation"], [own[i] for i in which])
            close(part["norm"], norms[which])
            close(part["entropy"], entropies[which])
            close(part["layer_norm"], norms.mean().expand(len(which)))
            close(part["layer_entropy"], entropies.mean().expand(len(which)))


@every
def test_outlier_entries_equal_loops(name):
    model = decoder(name)
    prompts = prompts_of(model)
    tables = rows(model, outlier_entries.having(top=2, k=3, layers="all"), prompts)
    for prompt, table in zip(prompts, tables, strict=True):
        cache, _ = cache_of(model, prompt)
        wanted = []
        for layer in (0, 1):
            weights = written_rows(name, model, layer)
            own = cache[f"blocks.{layer}.mlp.hook_post"][0, -1].tolist()
            for i in best(own, weights, "signed", 2):
                row = weights[i].tolist()
                largest = sorted(range(len(row)), key=lambda d: (-abs(row[d]), d))[:3]
                for rank, d in enumerate(largest):
                    column = weights[:, d]
                    mean, absolute = float(column.mean()), float(column.abs().mean())
                    wanted.append((layer, i, rank, d, row[d], mean, absolute))
        wanted = pd.DataFrame(wanted, columns=list(outlier_entries.columns))
        pd.testing.assert_frame_equal(table, wanted, check_exact=False, rtol=1e-4, atol=1e-6)


def test_outliers_of_given_neurons_are_the_same_in_every_prompt(native):
    tables = rows(native, outlier_entries.having(neurons="33,4", layers=0, k=2))
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0]["neuron"].tolist() == [33, 33, 4, 4]
    weights = native.blocks[0].mlp.W_out
    close(
        tables[0]["weight"],
        weights[33].detach()[tables[0]["dimension"][:2].tolist()].tolist()
        + weights[4].detach()[tables[0]["dimension"][2:].tolist()].tolist(),
    )


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="made as a bridge")
def test_a_neuron_that_does_nothing_has_no_row():
    """After a ReLU most are exactly 0, and 100 are more than there are."""
    tables = rows(decoder("opt"), regularisation_neurons)
    for prompt, table in zip(prompts_of(decoder("opt")), tables, strict=True):
        cache, _ = cache_of(decoder("opt"), prompt)
        own = [cache[f"blocks.{layer}.mlp.hook_post"][0, -1] for layer in (0, 1)]
        assert len(table) == sum(int((x > 0).sum()) for x in own) < 80
        assert (table["activation"] > 0).all()


def test_shares_of_prompts_are_counts_of_rows(native):
    prompts = prompts_of(native)
    every_row = pd.concat(rows(native, regularisation_neurons.having(top=3), prompts))
    shares = every_row.groupby(["layer", "neuron"]).size() / len(prompts)
    assert shares.max() <= 1
    assert shares.groupby("layer").sum().tolist() == pytest.approx([3, 3])


def test_the_rows_of_a_layer_are_read_once_for_all_prompts(native, monkeypatch):
    read, calls = module.read, []

    def counted(view, vectors, **options):
        calls.append(len(vectors))
        return read(view, vectors, **options)

    monkeypatch.setattr(module, "read", counted)
    swept = SweptModel(ModelView(native))
    rows(native, neuron_entropy_norm.having(top=2, layers="all"), swept=swept)
    rows(native, neuron_entropy_norm.having(top=3), swept=swept)
    assert calls == [40, 40]


def test_the_default_layer_is_the_19th_of_24():
    assert [module._at_19_of_24(n) for n in (24, 12, 48, 2, 1)] == [19, 9, 38, 1, 0]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_model_without_mlp_is_refused(study):
    (why,) = refusals(decoder("attn-only"), study)
    assert "has no MLP with neurons in every block, so this study cannot be of it" in why


@pytest.mark.parametrize(
    ("study", "options", "said"),
    [
        (regularisation_neurons, {"top": 0}, "top is an integer of at least 1"),
        (regularisation_neurons, {"order": "size"}, "'signed', 'absolute' or 'norm'"),
        (neuron_entropy_norm, {"layers": 5}, "layer 5 is outside 0..1"),
        (outlier_entries, {"neurons": "40"}, "neuron 40 is outside 0..39"),
        (outlier_entries, {"neurons": "x"}, "got 'x'"),
        (outlier_entries, {"k": -1}, "k is an integer of at least 1"),
    ],
)
def test_options_that_do_not_fit(native, study, options, said):
    (why,) = refusals(native, study.having(**options))
    assert said in why


def test_more_entries_than_there_are(native):
    (table, *_) = rows(native, outlier_entries.having(k=99, top=1))
    assert sorted(table["dimension"]) == list(range(16))
