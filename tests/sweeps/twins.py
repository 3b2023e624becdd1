"""What the twins of studies are made of: caches, the models' own norms, and a lens written out."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch

from tests import tiny
from tests.architectures import ARCHITECTURES
from tests.conftest import MAKERS, made
from visit_tl.model.view import ModelView
from visit_tl.sweeps.measure import SweptPrompt, measure
from visit_tl.sweeps.prompt_run import SweptModel

OTHERS = ("gemma2", "gptj", "gpt-neox", "opt") if tiny.HAS_BRIDGE else ()
"""With post-norms, parallel with one norm, parallel with two, with a ReLU."""
NAMES = (*MAKERS, *OTHERS)
CAP = {"gemma2": 3.0}
"""The softcap of logits."""

PROMPTS = ("a b c d e", "b c d e ab", "a b", "e d c b a b c")
TARGETS = (7, None, 3, None)


@functools.cache
def other(name):
    return tiny.native(attn_only=True) if name == "attn-only" else ARCHITECTURES[name].bridge()


def decoder(name):
    """A small model by its name."""
    return made(name) if name in MAKERS else other(name)


def prompts_of(model, texts=PROMPTS, targets=TARGETS):
    view = ModelView(model)
    return [
        SweptPrompt(i, text, view.encode(text, None).ids, target)
        for i, (text, target) in enumerate(zip(texts, targets, strict=True))
    ]


def rows(model, study, prompts=None, swept=None):
    """The rows of a study, a table for each prompt; no prompt may fail."""
    prompts = prompts_of(model) if prompts is None else prompts
    found = measure(swept or SweptModel(ModelView(model)), prompts, [study])
    assert not found.errors
    return [pd.DataFrame(found.tables[study.name][p.index]) for p in prompts]


def refusals(model, study):
    """Why a study has no rows, of every prompt."""
    found = measure(SweptModel(ModelView(model)), prompts_of(model), [study])
    assert not found.tables[study.name]
    assert {name for _, name, _ in found.errors} == {study.name}
    return {reason for _, _, reason in found.errors}


def cache_of(model, prompt):
    """The activations of one prompt alone, and the token that is followed."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([prompt.token_ids]))
    target = int(logits[0, -1].argmax()) if prompt.target is None else prompt.target
    return cache, target


def lens(name, model, vector, apply_norm=True):
    """softmax(T(ln_f(x) W_U + b_U)), by the model's own norm."""
    with torch.no_grad():
        x = model.ln_final(vector[None, None].float())[0, 0] if apply_norm else vector
        logits = x @ model.W_U
        b_U = getattr(model, "b_U", None)
        logits = logits if b_U is None else logits + b_U
        cap = CAP.get(name)
        return (logits if cap is None else cap * torch.tanh(logits / cap)).softmax(-1)


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(
        np.asarray(found, float), np.asarray(wanted, float), atol=tolerance, rtol=1e-4
    )


def ordered(ids, values, k):
    """Whether these are the k largest of the values, largest first, but for rounding."""
    assert len(set(ids)) == len(ids) == min(k, len(values))
    close(values[list(ids)], values.sort(descending=True).values[: len(ids)], 1e-6)


every = pytest.mark.parametrize("name", NAMES)
