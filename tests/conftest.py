"""Fixtures: the small models, made once a run, and the embedded real one."""

from __future__ import annotations

import os
from collections import Counter

os.environ["HF_HUB_OFFLINE"] = "1"
# What one test reads, another must not find on disk.
os.environ["VISIT_TL_ATLAS"] = "memory"
# And no trial of this machine, of now or earlier, decides about the last bits.
os.environ["VISIT_TL_READOUT"] = "torch:256x2048"

import pytest
import torch

from tests import tiny

# By the same names on every release, of the class that the release is about.
MAKERS = {
    "native": tiny.native,
    "gpt2": tiny.gpt2,
    "gpt2-folded": tiny.gpt2_folded,
    "llama": tiny.llama,
    "llama-folded": tiny.llama_folded,
}
if tiny.HAS_HOOKED:
    MAKERS["hooked-parallel"] = tiny.hooked_parallel
if tiny.HAS_HOOKED and tiny.HAS_BRIDGE:
    MAKERS |= {
        "hooked": tiny.hooked,
        "hooked-gpt2": lambda: tiny.hooked_from(tiny.hf_gpt2()),
        "hooked-gpt2-folded": lambda: tiny.hooked_from(tiny.hf_gpt2(), fold=True),
        "hooked-llama": lambda: tiny.hooked_from(tiny.hf_llama()),
        "hooked-llama-folded": lambda: tiny.hooked_from(tiny.hf_llama(), fold=True),
    }
_MADE: dict[str, object] = {}

_NO_BRIDGE = "TransformerLens 2.x has no TransformerBridge"
_BRIDGE_PARTS = (
    "reaches into the modules of a bridge; test_releases.py does it with a HookedTransformer"
)
# What a HookedTransformer does not have, by the part of the test's name before its parameters.
NOT_HOOKED = {
    "test_the_model_is_afterwards_exactly_as_it_was": _BRIDGE_PARTS,
    "test_the_model_is_as_it_was_also_after_an_exception": _BRIDGE_PARTS,
    "test_ties_at_the_edge_of_k_go_to_the_lower_id_whatever_the_tiles": _BRIDGE_PARTS,
    "test_weights_that_are_not_numbers_name_the_parameter": _BRIDGE_PARTS,
    "test_large_but_finite_weights_are_not_taken_for_nan": _BRIDGE_PARTS,
    "test_a_model_that_would_drop_out": "a HookedTransformer has no dropout",
    "test_an_encoder": _NO_BRIDGE,
    "test_an_encoder_decoder": _NO_BRIDGE,
}


def _each(text: str) -> tuple[int, int]:
    """How `--each` is written: N, or N:FIRST."""
    each, _, first = text.partition(":")
    return int(each), int(first or 0)


def pytest_addoption(parser):
    parser.addoption(
        "--each",
        type=_each,
        default=(1, 0),
        metavar="N[:FIRST]",
        help="of each parametrised test, run the one at FIRST (default 0) and every Nth after it",
    )


def pytest_runtest_setup(item):
    """Draw the same numbers in every run, whatever ran before."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config, items):
    """Leave out what `--each` does; skip what cannot exist with a test's class, and say why."""
    _thin_out(config, items)
    for item in items:
        if item.path.name == "test_releases.py":
            continue  # says itself what it needs
        maker = item.callspec.params.get("model") if hasattr(item, "callspec") else None
        hooked = not tiny.HAS_BRIDGE or str(maker).startswith("hooked")
        reason = NOT_HOOKED.get(item.originalname) if hooked else None
        if item.originalname == "test_reading_equals_transformer_lens_logit_readout" and (
            tiny.HAS_HOOKED
        ):
            reason = "logit_readout came with TransformerLens 4"
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _thin_out(config, items):
    each, first = config.getoption("--each")
    if each < 2:
        return
    names = [item.nodeid.split("[")[0] for item in items]
    counts, seen = Counter(names), Counter()
    kept, left_out = [], []
    for item, name in zip(items, names, strict=True):
        # A test with fewer parameters than FIRST is run with one of them all the same.
        wanted = first % min(each, counts[name])
        (kept if seen[name] % each == wanted else left_out).append(item)
        seen[name] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


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


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from tests.view.browsing import QUIET, chromium

    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = chromium()
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=list(QUIET))
        yield opened
        opened.close()
