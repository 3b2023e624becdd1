"""Train a small TopK SAE on the heads of one block of SmolLM2-135M, with SAELens's own trainer.

    pip install visit-tl sae-lens "transformer-lens<4"
    python examples/train_sae.py build/sae_smollm2

SAELens needs a TransformerLens before 4. No text is downloaded: it is what Python's help says of
the language, and the facts, tasks and circuit prompts of this package. An SAE of so little text is
narrow; what it is worth is in report.json beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from sae_lens import LoggingConfig, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

import visit_tl as vt
from visit_tl.studies.facts import all_facts

MODEL = "smollm2-135m"
CONTEXT = 128


def shipped_texts(model: Any) -> list[str]:
    """Prompts of this package with their answers, and the help of Python."""
    texts = [f"{fact.prompt}{fact.target}." for fact in all_facts()]
    for task in vt.studies.tasks():
        with suppress(vt.InputError):  # too few answers of this task are one token here
            drawn = vt.studies.few_shot(model, task, shots=5, n=30, seed=1)
            texts += [prompt + answer for prompt, answer in drawn]
    decode = model.tokenizer.decode
    for pair in vt.circuits.prompts.ioi(model, 200, seed=1):
        texts.append(pair.text + decode(pair.answers[:1]) + ".")
    return texts + list(topics.values())


def rows_of(texts: list[str], tokenizer: Any) -> list[Tensor]:
    """Texts, one after the other, cut into sequences that begin with BOS."""
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    size = CONTEXT - 1
    cut = [ids[i : i + size] for i in range(0, len(ids) - size, size)]
    return [torch.tensor([tokenizer.bos_token_id, *one]) for one in cut]


@torch.no_grad()
def activations(model: Any, rows: Tensor, layer: int, batch: int = 16) -> Tensor:
    """`hook_z` of a block at all positions but the first, all heads as one vector."""
    found: list[Tensor] = []

    def keep(z: Tensor, hook: Any) -> None:
        found.append(z[:, 1:].flatten(2).flatten(0, 1).half())

    for chunk in tqdm(rows.split(batch), desc="Activations"):
        model.run_with_hooks(
            chunk, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", keep)], stop_at_layer=layer + 1
        )
    return torch.cat(found)


def kept(file: Path | None, make: Callable[[], Tensor]) -> Tensor:
    """What was computed before, if it was kept in this file."""
    if file is None or not file.exists():
        made = make()
        if file is not None:
            save_file({"activations": made}, file)
        return made
    return load_file(file)["activations"]


def batches(vectors: Tensor, size: int) -> Iterator[Tensor]:
    """The vectors in random order, again and again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for chunk in torch.randperm(len(vectors), generator=generator).split(size):
            if len(chunk) == size:
                yield vectors[chunk].float()


def trained(vectors: Tensor, layer: int, d_sae: int, k: int, steps: int, batch: int) -> Any:
    """The SAE, trained by SAELens."""
    torch.manual_seed(0)
    config = TopKTrainingSAEConfig(
        d_in=vectors.shape[1],
        d_sae=d_sae,
        k=k,
        normalize_activations="expected_average_only_in",
        reshape_activations="hook_z",
        metadata=SAEMetadata(
            model_name=MODEL,
            hook_name=f"blocks.{layer}.attn.hook_z",
            context_size=CONTEXT,
            prepend_bos=True,
        ),
    )
    how = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=1e-3,
        lr_end=1e-4,
        lr_decay_steps=steps // 5,
        lr_warm_up_steps=min(100, steps // 10),
        dead_feature_window=200,
        feature_sampling_window=steps,
        n_batches_for_norm_estimate=20,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(how, TopKTrainingSAE(config), batches(vectors, batch)).fit()


@torch.no_grad()
def judged(model: Any, module: vt.features.FeatureModule, rows: Tensor) -> dict[str, float]:
    """How well the saved SAE does on sequences that it was not trained on."""
    z = activations(model, rows, module.layer).float()
    run = module.apply(z)
    unexplained = (z - run.reconstruction).square().sum() / (z - z.mean(0)).square().sum()
    active = run.features != 0

    def loss(change: Any) -> float:
        def hook(z: Tensor, hook: Any) -> Tensor:
            return torch.cat([z[:, :1], change(z[:, 1:])], 1)

        total = 0.0
        for chunk in tqdm(rows.split(8), desc="Loss", leave=False):
            logits = model.run_with_hooks(chunk, fwd_hooks=[(module.hook, hook)])
            guesses = logits[:, 1:-1].flatten(0, 1)
            total += float(torch.nn.functional.cross_entropy(guesses, chunk[:, 2:].flatten()))
        return total / len(rows.split(8))

    clean, zero, replaced = loss(lambda z: z), loss(torch.zeros_like), loss(module)
    return {
        "tokens": len(z),
        "variance_explained": 1 - float(unexplained),
        "l0": float(active.sum(1).float().mean()),
        "features_never_active": int((~active.any(0)).sum()),
        "loss": clean,
        "loss_without_the_heads": zero,
        "loss_with_the_reconstruction": replaced,
        "loss_recovered": (zero - replaced) / (zero - clean),
    }


def save_half(sae: Any, folder: Path) -> None:
    """The SAE as SAELens saves it for use, its weights in half precision."""
    sae.to(dtype=torch.float16)
    sae.save_inference_model(folder)
    config = folder / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=1) + "\n")


def main() -> None:
    """Collect activations, train, save, judge what was saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layer", type=int, default=17)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("-k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rows", type=int, default=None, help="at most so many sequences in all")
    parser.add_argument("--activations", type=Path, help="keep activations in this file")
    given = parser.parse_args()

    times = {}
    start = time.perf_counter()
    model = vt.load_model(MODEL)
    rows = rows_of(shipped_texts(model), model.tokenizer)
    rows = torch.stack(rows)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    rows = rows[: given.rows]
    test, train = rows[: max(len(rows) // 20, 8)], rows[max(len(rows) // 20, 8) :]
    times["texts"] = time.perf_counter() - start
    vectors = kept(given.activations, lambda: activations(model, train, given.layer))
    times["activations"] = time.perf_counter() - start - sum(times.values())
    sae = trained(vectors, given.layer, given.features, given.k, given.steps, given.batch)
    times["training"] = time.perf_counter() - start - sum(times.values())
    save_half(sae, given.folder)

    module = vt.features.open(given.folder)
    report = judged(model, module, test)
    seen = torch.cat([(module.encode(part) != 0).any(0)[None] for part in vectors.split(4096)])
    report |= {
        "d_in": module.d_in,
        "features": module.n_features,
        "k": given.k,
        "training_tokens": len(vectors),
        "training_steps": given.steps,
        "features_never_active_in_training": int((~seen.any(0)).sum()),
        "megabytes": module.path.stat().st_size / 1e6,
        "seconds": {name: round(value) for name, value in times.items()},
    }
    (given.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
