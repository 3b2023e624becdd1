"""The small models of the tests of studies."""

from __future__ import annotations

import pytest

from tests import conftest as made_models
from tests import tiny
from tests.architectures import ARCHITECTURES

_KINDS = list(made_models.MAKERS)
if tiny.HAS_BRIDGE:
    # A norm after the attention; parallel blocks; queries and keys with norms.
    _KINDS += ["gemma2", "gptj", "qwen3"]
_OPENED: dict[str, object] = {}


def opened(name: str):
    """A small model by the name of its maker or of its architecture, made once."""
    if name in made_models.MAKERS:
        return made_models.made(name)
    if name not in _OPENED:
        _OPENED[name] = ARCHITECTURES[name].bridge()
    return _OPENED[name]


@pytest.fixture(params=_KINDS)
def decoder(request):
    """Each small model in turn, and some of other architectures."""
    return opened(request.param)


@pytest.fixture
def padded_decoder(decoder):
    """The same, if its heads fit into d_model next to each other."""
    attn = decoder.blocks[0].attn
    if attn.W_O.shape[0] * attn.W_O.shape[1] > decoder.cfg.d_model:
        pytest.skip("its heads are too wide together to be padded with zeros")
    return decoder
