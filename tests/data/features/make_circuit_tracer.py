"""Make the transcoders of circuit_tracer/ and circuit-tracer's own answers, with circuit-tracer.

    pip install circuit-tracer==0.4.1
    python make_circuit_tracer.py

Each folder holds two layers with random weights, as `TranscoderSet.to_safetensors` writes them, a
`config.yaml` of the kind that published sets have, and `example.safetensors`: `input`, and of layer
1 `features` = encode(input), `forward` = the whole module.
"""

from __future__ import annotations

from pathlib import Path

import torch
from circuit_tracer.transcoder.single_layer_transcoder import (
    SingleLayerTranscoder,
    TranscoderSet,
    load_transcoder_set,
)
from safetensors.torch import save_file

HERE = Path(__file__).parent / "circuit_tracer"
D_MODEL, N = 16, 64
CASES = {
    "relu": ({}, "activation: relu\n"),
    "topk": ({}, "activation: topk\nk: 6\n"),
    "jumprelu": ({"threshold": True}, ""),
    "relu_skip": ({"skip": True}, "activation: relu\n"),
    "jumprelu_skip": ({"threshold": True, "skip": True}, ""),
}
CONFIG = """model_name: tiny
model_kind: transcoder_set
feature_input_hook: hook_resid_mid
feature_output_hook: hook_mlp_out
"""


def made(layer: int, threshold: bool = False, skip: bool = False) -> SingleLayerTranscoder:
    """A transcoder with random weights."""
    from circuit_tracer.transcoder.activation_functions import JumpReLU

    activation = JumpReLU(torch.rand(N) - 0.2, 0.1) if threshold else torch.relu
    one = SingleLayerTranscoder(
        D_MODEL, N, activation, layer, skip_connection=skip, device=torch.device("cpu"),
        dtype=torch.float32,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if "threshold" not in name:
                parameter.copy_(torch.randn(parameter.shape) / 4)
    return one


def main() -> None:
    """Write all folders anew."""
    for seed, (name, (options, config)) in enumerate(sorted(CASES.items())):
        torch.manual_seed(seed)
        folder = HERE / name
        pair = {layer: made(layer, **options) for layer in (0, 1)}
        TranscoderSet(pair, "hook_resid_mid", "hook_mlp_out").to_safetensors(str(folder))
        (folder / "config.yaml").write_text(CONFIG + config)
        topk = {"activation": "topk", "k": 6} if name == "topk" else {}
        relu = {"activation": "relu"} if "activation: relu" in config else {}
        again = load_transcoder_set(
            {i: str(folder / f"layer_{i}.safetensors") for i in (0, 1)}, scan=name,
            feature_input_hook="hook_resid_mid", feature_output_hook="hook_mlp_out",
            device=torch.device("cpu"), lazy_encoder=False, lazy_decoder=False, **topk, **relu,
        )[1]  # fmt: skip
        x = 2 * torch.randn(5, D_MODEL) + 0.3
        with torch.no_grad():
            parts = {"input": x, "features": again.encode(x), "forward": again(x)}
        save_file({k: v.contiguous() for k, v in parts.items()}, folder / "example.safetensors")


if __name__ == "__main__":
    main()
