"""Half precision in families of different kinds; docs/compatibility.md has the errors of all."""

import pytest
import torch

pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges to open these with")

from tests.families.measure import measured

# Of all families: 7.9e-3 (DeepSeek-V3) in bfloat16 and 1.0e-3 (Jamba) in float16.
MEASURED = {torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", MEASURED)
@pytest.mark.parametrize(
    "name", ["DeepseekV3ForCausalLM", "Gemma2ForCausalLM", "GraniteForCausalLM", "JambaForCausalLM"]
)
def test_the_laws_hold_up_to_the_rounding_of_the_model(name, dtype):
    row = measured(name, dtype)
    assert row["verdict"].startswith("exact"), row["verdict"]
    assert 1e-5 < row["error"] < MEASURED[dtype]
