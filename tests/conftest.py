"""Fixtures: the small models, made once a run, and the embedded real one."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

from tests import tiny

MAKERS = {
    "native": tiny.native,
    "gpt2": tiny.gpt2,
    "gpt2-folded": lambda: tiny.folded(tiny.gpt2()),
    "llama": tiny.llama,
    "llama-folded": lambda: tiny.folded(tiny.llama()),
}
_MADE: dict[str, object] = {}


def made(name: str):
    if name not in _MADE:
        _MADE[name] = MAKERS[name]()
    return _MADE[name]


@pytest.fixture(params=list(MAKERS))
def model(request):
    """Each small model in turn."""
    return made(request.param)


@pytest.fixture
def native():
    return made("native")


@pytest.fixture
def llama():
    return made("llama")


@pytest.fixture(scope="session")
def smol():
    """The embedded SmolLM2-135M-Instruct, loaded once a run."""
    from visit_tl import load_model

    return load_model("smollm2-135m", verbose=False)
