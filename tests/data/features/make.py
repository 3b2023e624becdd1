"""Make the SAEs of this folder and SAELens's own answers, with SAELens itself.

    pip install sae-lens==6.54.12 "transformer-lens<4"
    python make.py

Each folder is what SAELens saves, with random weights; beside it `example.safetensors` holds
`input`, `features` = encode(input), `output` = decode(features), `forward` = the whole module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
D_IN, N, HEADS, ROWS = 16, 64, 4, 5
RESID, Z = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"
MLP_IN, MLP_OUT = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"

CASES: dict[str, dict[str, Any]] = {
    "standard_half": {"architecture": "standard", "dtype": "float16"},
    "standard_bfloat16": {"architecture": "standard", "dtype": "bfloat16"},
    "standard_layer_norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "standard_no_input_bias": {"architecture": "standard", "apply_b_dec_to_input": False},
    "gated": {"architecture": "gated"},
    "gated_z_rescaled": {"architecture": "gated", "hook": Z,
                         "normalize_activations": "constant_norm_rescale"},
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu_z_layer_norm": {"architecture": "jumprelu", "hook": Z,
                              "normalize_activations": "layer_norm"},
    "topk_by_norm": {"architecture": "topk", "k": 6, "rescale_acts_by_decoder_norm": True},
    "topk_layer_norm": {"architecture": "topk", "k": 6, "normalize_activations": "layer_norm"},
    "abstopk": {"architecture": "abstopk", "k": 6},
    "abstopk_by_norm": {"architecture": "abstopk", "k": 6, "rescale_acts_by_decoder_norm": True},
    "matching_pursuit": {"architecture": "matching_pursuit", "residual_threshold": 0.5},
    "matching_pursuit_few": {"architecture": "matching_pursuit", "max_iterations": 4,
                             "residual_threshold": 0.0, "stop_on_duplicate_support": False,
                             "apply_b_dec_to_input": False},
    "transcoder_layer_norm": {"architecture": "transcoder", "normalize_activations": "layer_norm"},
    "transcoder_narrow": {"architecture": "transcoder", "d_out": 12,
                          "hook": "blocks.1.mlp.hook_pre", "out": MLP_OUT},
    "skip_transcoder": {"architecture": "skip_transcoder", "out": MLP_OUT},
    "jumprelu_transcoder": {"architecture": "jumprelu_transcoder"},
    "jumprelu_skip_transcoder": {"architecture": "jumprelu_skip_transcoder", "out": MLP_OUT},
}  # fmt: skip
TRAINED = {
    "batchtopk": {"architecture": "batchtopk", "k": 6.0},
    "matryoshka": {"architecture": "matryoshka_batchtopk", "k": 6.0,
                   "matryoshka_widths": [16, 64]},
}  # fmt: skip


def metadata(hook: str, out: str | None = None) -> SAEMetadata:
    """What a user's SAE says of its training."""
    more = {"hook_name_out": out} if out else {}
    return SAEMetadata(model_name="tiny", hook_name=hook, prepend_bos=True, **more)


def randomise(sae: Any) -> None:
    """Weights of a size at which about half of the features are active."""
    with torch.no_grad():
        for name, parameter in sorted(sae.named_parameters()):
            width = parameter.shape[0] if parameter.ndim > 1 else 1
            parameter.copy_(torch.randn(parameter.shape) / width**0.5)
            if name == "threshold":
                parameter.copy_(torch.rand(parameter.shape) - 0.2)
            if name in ("b_dec", "r_mag"):
                parameter.mul_(0.3)
            if name == "W_dec" and "pursuit" in sae.cfg.architecture():
                parameter.div_(parameter.norm(dim=1, keepdim=True))


def made(architecture: str, hook: str | None = None, out: str | None = None, **options: Any) -> Any:
    """An SAE with random weights."""
    transcoder = "transcoder" in architecture
    hook = hook or (MLP_IN if transcoder else RESID)
    if transcoder:
        options = {"d_out": D_IN, "apply_b_dec_to_input": False} | options
    cls, config = get_sae_class(architecture)
    reshape = "hook_z" if hook == Z else "none"
    sae = cls(config(d_in=D_IN, d_sae=N, reshape_activations=reshape,
                     metadata=metadata(hook, out), **options))  # fmt: skip
    randomise(sae)
    return sae


def answer(sae: Any, folder: Path) -> None:
    """What SAELens makes of some inputs, written beside its weights."""
    by_head = sae.cfg.reshape_activations == "hook_z"
    x = torch.randn(ROWS, HEADS, D_IN // HEADS) if by_head else torch.randn(ROWS, D_IN)
    x = 2 * x + 0.3
    with torch.no_grad():
        features = sae.encode(x)
        output = sae.decode(features)
        forward = sae(x)
    parts = {"input": x, "features": features, "output": output, "forward": forward}
    save_file({k: v.contiguous() for k, v in parts.items()}, folder / "example.safetensors")


def main() -> None:
    """Write all folders anew."""
    for seed, (name, options) in enumerate(sorted(CASES.items())):
        torch.manual_seed(seed)
        folder = HERE / name
        made(**options).save_model(folder)
        # Half precision is opened by SAELens in float32, as it is opened here.
        answer(SAE.load_from_disk(folder, dtype="float32"), folder)
    for seed, (name, options) in enumerate(sorted(TRAINED.items())):
        torch.manual_seed(100 + seed)
        cls, config = get_sae_training_class(options.pop("architecture"))
        sae = cls(config(d_in=D_IN, d_sae=N, metadata=metadata(RESID), **options))
        randomise(sae)
        sae.topk_threshold.fill_(0.4)
        sae.save_inference_model(HERE / name)
        answer(SAE.load_from_disk(HERE / name), HERE / name)
    old_keys()


def old_keys() -> None:
    """Folders with the keys that SAELens wrote before its release 6, opened by SAELens 6."""
    base = {"d_in": D_IN, "d_sae": N, "dtype": "float32", "device": "cpu", "model_name": "tiny",
            "hook_layer": 1, "hook_head_index": None, "context_size": 128,
            "finetuning_scaling_factor": False, "neuronpedia_id": "tiny/1-att-x"}  # fmt: skip
    standard = {
        **base,
        "hook_point": Z,
        "activation_fn_str": "relu",
        "normalize_activations": False,
    }
    topk = {**base, "hook_name": RESID, "activation_fn_str": "topk", "architecture": "standard",
            "activation_fn_kwargs": {"k": 6}, "normalize_activations": "none"}  # fmt: skip
    for seed, (name, config) in enumerate((("old_standard_z", standard), ("old_topk", topk))):
        torch.manual_seed(200 + seed)
        made("standard", hook=Z if config is standard else RESID).save_model(HERE / name)
        weights = load_file(HERE / name / "sae_weights.safetensors")
        weights["scaling_factor"] = torch.ones(N)
        save_file(weights, HERE / name / "sae_weights.safetensors")
        (HERE / name / "cfg.json").write_text(json.dumps(config))
        answer(SAE.load_from_disk(HERE / name), HERE / name)


if __name__ == "__main__":
    main()
