"""What fine-tuning under a mask changes inside: where heads look, routes, reversed attention.

python examples/segment_masking.py --save-adapters build/segment_adapters
python examples/segment_inside.py build/segment_adapters
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from segment_masking import SYSTEM, items, open_embedded

import visit_tl as vt
from visit_tl.studies import HeadScores, later_attention

DATA = Path(__file__).parents[1] / "docs" / "data" / "segment_inside.json"
TASK = "antonym"
HEADS = 3
"""Heads of each block that the compared graphs keep."""


def opened(adapter: Path | None) -> Any:
    """The model with an adapter, or without."""
    model, tokenizer = open_embedded("eager")
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return vt.load_model(model.eval(), tokenizer=tokenizer)


def prompts(tokenizer: Any, n: int) -> tuple[list[vt.Segments], list[str]]:
    """Test items as chats with their segments, and the right answers."""
    _, test = items(TASK, tokenizer, 1, n, 0)
    chats = [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": item.question}]
        for item in test
    ]
    return [vt.Segments.from_chat(tokenizer, chat) for chat in chats], [i.answer for i in test]


def measured(model: Any, found: list[vt.Segments], targets: list[int]) -> HeadScores:
    """How much each head looks at later tokens, on every prompt."""
    ids = [list(one.token_ids) for one in found]
    return later_attention(model, ids, found, targets=targets, verbose=False)


def compared(
    before: HeadScores, after: HeadScores, control: HeadScores, name: str, top: int
) -> dict[str, Any]:
    """Means of a score before and after, and the heads where it rose most, with standard errors."""
    change = after[name] - before[name]
    mean, error = change.mean(0), change.std(0, ddof=1) / np.sqrt(len(change))
    order = np.argsort(-mean, axis=None)[:top]
    heads = [np.unravel_index(i, mean.shape) for i in order]
    return {
        "before": float(before[name].mean()),
        "after": float(after[name].mean()),
        "after causal tuning": float(control[name].mean()),
        "rose": [
            {
                "head": f"L{layer}H{head}",
                "before": float(before[name][:, layer, head].mean()),
                "after": float(after[name][:, layer, head].mean()),
                "change": float(mean[layer, head]),
                "after causal tuning": float(control[name][:, layer, head].mean()),
                "se": float(error[layer, head]),
            }
            for layer, head in heads
        ],
        "heads up by 2 se": int((mean > 2 * error).sum()),
        "heads down by 2 se": int((mean < -2 * error).sum()),
        "by layer": {
            "before": before[name].mean((0, 2)).tolist(),
            "after": after[name].mean((0, 2)).tolist(),
        },
    }


def routes(plain: Any, tuned: Any, one: vt.Segments, target: int) -> dict[str, Any]:
    """The graphs at the end of the prompt: which heads they keep, and how sure the model is."""
    ids = list(one.token_ids)
    graphs = {
        "untuned, causal": vt.flow_graph(plain, ids, target=target, heads=HEADS),
        "untuned, segments": vt.flow_graph(plain, ids, target=target, segments=one, heads=HEADS),
        "tuned, segments": vt.flow_graph(tuned, ids, target=target, segments=one, heads=HEADS),
    }
    heads = {
        name: {str(node.id) for node in graph.nodes if node.id.kind == "head"}
        for name, graph in graphs.items()
    }
    kept = heads["tuned, segments"]
    return {
        "prompt": graphs["tuned, segments"].prompt,
        **{
            name: {
                "probability": float(graph["logits"].prob),
                "rank": int(graph["logits"].rank),
                "heads": len(heads[name]),
                "heads in common with the tuned": len(heads[name] & kept),
            }
            for name, graph in graphs.items()
        },
    }


def later_memories(model: Any, one: vt.Segments) -> list[dict[str, Any]]:
    """The memories of later tokens in the graph at the first token of the user's segment."""
    start = one.spans[-1][0]
    graph = vt.flow_graph(model, list(one.token_ids), segments=one, position=start, values=3)
    later = [
        {
            "value": str(node.id),
            "token": graph.tokens[node.id.key_position],
            "attention": float(node.coefficient or 0.0),
            "norm": float(node.norm),
        }
        for node in graph.nodes
        if node.id.kind == "value" and (node.id.key_position or 0) > start
    ]
    return sorted(later, key=lambda row: -row["attention"] * row["norm"])


def main() -> None:
    """Measure the model before and after, and write docs/data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", type=Path, help="the folder of --save-adapters")
    parser.add_argument("--n", type=int, default=24, help="prompts")
    parser.add_argument("--top", type=int, default=10, help="heads that are listed")
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    plain = opened(None)
    found, answers = prompts(plain.tokenizer, options.n)
    targets = [plain.tokenizer(a, add_special_tokens=False)["input_ids"][0] for a in answers]
    before = measured(plain, found, targets)
    tuned = opened(options.adapters / "segments")
    after = measured(tuned, found, targets)
    control = measured(opened(options.adapters / "causal"), found, targets)
    result = {
        "task": TASK,
        "prompts": len(found),
        "equal": float(before["later if equal"].mean()),
        **{
            name: compared(before, after, control, name, options.top)
            for name in ("later", "reversed later")
        },
        "graphs": routes(plain, tuned, found[0], targets[0]),
        "memories of later tokens": {
            "untuned": later_memories(plain, found[0])[: options.top],
            "tuned": later_memories(tuned, found[0])[: options.top],
        },
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines: list[str] = []
    for name in ("later", "reversed later"):
        own = result[name]
        lines.append(f"{name}: {own['before']:.4f} -> {own['after']:.4f}")
        lines += [
            f"  {row['head']:<7} {row['before']:.3f} -> {row['after']:.3f} (se {row['se']:.3f})"
            for row in own["rose"]
        ]
    lines += [f"{name}: {facts}" for name, facts in result["graphs"].items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
