"""Segment masks against causal masks in fine-tuning: LoRA on SmolLM2-135M, results to docs/data.

python examples/segment_masking.py
accelerate launch examples/segment_masking.py --train 2000 --out build/segment_masking

Both masks get the same training items in the same order, the same start of the adapters and the
same number of steps. The loss is on the answer alone. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.segments import SegmentCollator, Segments

DATA = Path(__file__).parents[1] / "docs" / "data"
NAME = "segment_masking"
SYSTEM = "Pick one option."
FIRST = " (options first)"
ASKED = {
    "antonym": "Which word is the opposite of {x}: {options}?",
    f"antonym{FIRST}": "{options}: which word is the opposite of {x}?",
    "country-capital": "Which city is the capital of {x}: {options}?",
    "synonym": "Which word means the same as {x}: {options}?",
    "odd-one-out": "Which word does not belong with the others: {options}?",
}
"""The question of each task. Where options come first, causal options do not see the question."""

ODD = ("singular-plural", "present-past", "english-french")
"""Where the words of `odd-one-out` are from: three first words of pairs and one second, or back."""

MASKS = ("causal", "segments")
PAPER = {"r": 32, "alpha": 64, "dropout": 0.05, "modules": ["q_proj", "v_proj"], "rate": 2e-4}
"""The LoRA of Katz et al. (2025), who train it for 3 epochs; the rate is `--rate` here."""


# --- items ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A question of the user, its options, and which of them is right."""

    question: str
    options: tuple[str, ...]
    answer: str


@cache
def pairs(task: str) -> tuple[tuple[str, str], ...]:
    """Input and output pairs of a task of the package, each input once."""
    file = resources.files("visit_tl.studies") / "data" / "tasks.json"
    once: dict[str, str] = {}
    for x, y in json.loads(file.read_text(encoding="utf-8"))[task]:
        if x.casefold() != y.casefold():
            once.setdefault(x, y)
    return tuple(once.items())


def split(task: str, n_test: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs for training and pairs for the test, which share no word on either side."""
    group: dict[str, str] = {}

    def root(word: str) -> str:
        while group.setdefault(word, word) != word:
            word = group[word]
        return word

    known = pairs(task)
    for x, y in known:
        group[root(x.casefold())] = root(y.casefold())
    roots = sorted({root(x.casefold()) for x, _ in known})
    random.Random(f"split {task}").shuffle(roots)
    train: list[tuple[str, str]] = []
    test: list[tuple[str, str]] = []
    for one in roots:
        found = [pair for pair in known if root(pair[0].casefold()) == one]
        (test if len(test) < n_test else train).extend(found)
    return train, test


def items(
    task: str, tokenizer: Any, n_train: int, n_test: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """Training items drawn by the seed, and test items, which are the same for every seed."""
    asked, task = ASKED[task], task.removesuffix(FIRST)  # the order alone differs
    of = ODD if task == "odd-one-out" else (task,)
    parts = [split(one, n_test if len(of) == 1 else n_test // len(of) + 8) for one in of]
    found = []
    for side, n, draw in ((0, n_train, f"{task} train {seed}"), (1, n_test, f"{task} test")):
        own = {one: part[side] for one, part in zip(of, parts, strict=True)}
        stream = random.Random(draw)
        if len(of) > 1:
            found.append(_odd(own, n, stream, tokenizer))
        else:
            found.append(_picked(asked, own[task], n, stream, tokenizer))
    return found[0], found[1]


def _picked(
    asked: str, known: list[tuple[str, str]], n: int, stream: random.Random, tokenizer: Any
) -> list[Item]:
    """Items with one right answer, and three answers to others of the same part."""
    answers = sorted({y for _, y in known})
    made = []
    for x, y in stream.sample(known, min(n, len(known))):
        options = [y]
        for other in stream.sample(answers, len(answers)):
            if other != x and _differ([*options, other], tokenizer):
                options.append(other)
            if len(options) == 4:
                break
        stream.shuffle(options)
        question = asked.format(x=x, options=_listed(options))
        made.append(Item(question, tuple(options), y))
    return made


def _odd(
    known: dict[str, list[tuple[str, str]]], n: int, stream: random.Random, tokenizer: Any
) -> list[Item]:
    """Items with three words of one kind and one of another, each from a pair of its own."""
    made: list[Item] = []
    while len(made) < n:
        own = stream.sample(known[ODD[len(made) % len(ODD)]], 4)
        side = stream.randrange(2)
        options = [pair[side] for pair in own[:3]] + [own[3][1 - side]]
        odd = options[3]
        if not _differ(options, tokenizer):
            continue
        stream.shuffle(options)
        question = ASKED["odd-one-out"].format(options=_listed(options))
        made.append(Item(question, tuple(options), odd))
    return made


def _listed(options: Sequence[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


def _first(text: str, tokenizer: Any) -> int:
    return int(tokenizer(text, add_special_tokens=False)["input_ids"][0])


def _differ(options: Sequence[str], tokenizer: Any) -> bool:
    """Whether the options can be told apart by their first tokens."""
    return len({_first(option, tokenizer) for option in options}) == len(options)


def rows(made: Sequence[Item], tokenizer: Any) -> list[dict[str, Any]]:
    """What the collator takes: the tokens of chat and answer, and the ranges of the segments."""
    out = []
    for item in made:
        chat = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": item.question},
        ]
        prompt = Segments.from_chat(tokenizer, chat)
        answer = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        ids = [*prompt.token_ids, *answer, tokenizer.eos_token_id]
        out.append(
            {"input_ids": ids, "prompt_length": len(prompt.token_ids), "spans": prompt.spans}
        )
    return out


# --- the model --------------------------------------------------------------------------------


def open_embedded(attention: str) -> tuple[Any, Any]:
    """The embedded SmolLM2-135M-Instruct as transformers opens it, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from visit_tl.model.embedded.models import ensure_converted, find_embedded

    known = find_embedded("smollm2-135m")
    assert known is not None
    folder = ensure_converted(known, verbose=False)
    options: dict[str, Any] = {"attn_implementation": attention, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.float(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def require_mask(model: Any) -> None:
    """Refuse a model that does not take the mask exactly, found out by two changed tokens.

    Under the mask of two segments, a later token of a segment must move an earlier row of the same
    segment, and the second segment must leave the first as it was.

    Raises:
        ModelError: the attention ignores the mask, or takes it as something else.
    """
    device = next(model.parameters()).device
    spans = [(0, 4), (4, 8)]
    ids = list(range(3, 12))
    training = model.training

    def states(changed: int | None) -> Tensor:
        own = [token + 1 if i == changed else token for i, token in enumerate(ids)]
        batch = SegmentCollator(0)([{"input_ids": own, "prompt_length": 8, "spans": spans}])
        with torch.no_grad():
            taken = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            return model(**taken).logits[0].float()

    how = getattr(model.config, "_attn_implementation", "its attention")
    try:
        clean, later, second = (states(changed) for changed in (None, 3, 6))
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot run with a 4-D mask ({how}: {type(error).__name__}: "
            f"{error}); open it with attn_implementation='sdpa' or 'eager'"
        ) from error
    finally:
        model.train(training)
    if bool((clean[0] == later[0]).all()) or not torch.equal(clean[:4], second[:4]):
        raise ModelError(
            f"{type(model).__name__} does not take the mask of segments exactly ({how}), so it "
            f"cannot be trained under it; open it with attn_implementation='sdpa' or 'eager'"
        )


# --- training and tests -----------------------------------------------------------------------


class Clock:
    """Seconds of each step, as a callback of the trainer."""

    def __new__(cls, steps: list[float]) -> Any:
        """A `TrainerCallback` that writes into the list."""
        from transformers import TrainerCallback

        class Timed(TrainerCallback):
            start = 0.0

            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                self.start = time.perf_counter()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                steps.append(time.perf_counter() - self.start)

        return Timed()


def arguments(options: argparse.Namespace, folder: str, seed: int) -> Any:
    """`TrainingArguments`, by the names that the installed transformers has."""
    from transformers import TrainingArguments

    asked = {
        "output_dir": folder,
        "per_device_train_batch_size": options.batch,
        "per_device_eval_batch_size": 2 * options.batch,
        "num_train_epochs": options.epochs,
        "max_steps": options.steps or -1,
        "learning_rate": options.rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": options.warmup,
        "seed": seed,
        "data_seed": seed,
        "bf16": options.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        # The collator needs the columns that no argument of the model is called after.
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
    }
    accepted = inspect.signature(TrainingArguments).parameters
    known: dict[str, Any] = {name: value for name, value in asked.items() if name in accepted}
    return TrainingArguments(**known)


def trainer_of(
    model: Any, tokenizer: Any, mask: str, args: Any, data: Any, steps: list[float]
) -> Any:
    """A trainer whose collator makes the masks."""
    from transformers import PrinterCallback, Trainer

    at_answers: Any = _at_answers
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=data,
        data_collator=SegmentCollator(tokenizer.pad_token_id, segmented=mask == "segments"),
        callbacks=[Clock(steps)],
        preprocess_logits_for_metrics=at_answers,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _at_answers(logits: Any, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By row: the scores of the answer's first token, whether greedy decoding says it, its loss."""
    if isinstance(logits, tuple):
        logits = logits[0]
    before = (labels != -100).int().argmax(-1) - 1
    first = logits[torch.arange(len(labels), device=labels.device), before].float()
    wanted, scores = labels[:, 1:], logits[:, :-1].float()
    kept = wanted != -100
    said = ((scores.argmax(-1) == wanted) | ~kept).all(-1, keepdim=True)
    loss = torch.nn.functional.cross_entropy(scores.transpose(1, 2), wanted, reduction="none")
    mean = (loss * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)
    return first, said.float(), mean


def tested(trainer: Any, made: Sequence[Item], tokenizer: Any) -> dict[str, Any]:
    """How a model does on items, under the mask of the trainer's collator.

    `accuracy` takes the option whose first token has the highest score; by chance it is 1/4.
    `exact` asks greedy decoding for the answer and its end.
    """
    start = time.perf_counter()
    found = trainer.predict(rows(made, tokenizer)).predictions
    first, said, loss = (torch.as_tensor(one) for one in found)
    right = []
    for item, scores in zip(made, first, strict=True):
        ids = [_first(option, tokenizer) for option in item.options]
        right.append(item.options[int(scores[ids].argmax())] == item.answer)
    return {
        "accuracy": sum(right) / len(right),
        "exact": float(said.mean()),
        "loss": float(loss.mean()),
        "n": len(right),
        "right": "".join(str(int(one)) for one in right),
        "seconds": time.perf_counter() - start,
    }


def lora() -> Any:
    """The adapters of the paper."""
    from peft import LoraConfig

    return LoraConfig(
        r=PAPER["r"],
        lora_alpha=PAPER["alpha"],
        lora_dropout=PAPER["dropout"],
        target_modules=PAPER["modules"],
        task_type="CAUSAL_LM",
    )


def trained(
    base: Any, tokenizer: Any, task: str, mask: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One adapter, trained under one mask and tested under it; the base is as it was afterwards."""
    from peft import get_peft_model
    from transformers import set_seed

    train, test = items(task, tokenizer, options.train, options.test, seed)
    set_seed(seed)  # the adapters of both masks begin with the same numbers
    model: Any = get_peft_model(base, lora())
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(options, folder, seed)
        trainer = trainer_of(model, tokenizer, mask, args, rows(train, tokenizer), steps)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        found = tested(trainer, test, tokenizer)
        if options.save_adapters and (task, seed) == (options.tasks[0], options.seeds[0]):
            place = Path(options.save_adapters) / mask
            if trainer.is_world_process_zero():
                model.save_pretrained(place)
                tokenizer.save_pretrained(place)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    model.unload()
    return found | {
        "steps": len(steps),
        "seconds of training": seconds,
        "seconds per step": statistics.median(steps),
        "training loss": losses,
        "items": len(train),
    }


def cost(base: Any, tokenizer: Any, options: argparse.Namespace, n: int) -> dict[str, Any]:
    """Seconds of forward and backward passes of one batch under each mask, taken in turns.

    So other work on the machine slows both alike. What both masks share, the optimiser and making
    the batch, is left out.
    """
    from peft import get_peft_model

    train, _ = items(options.tasks[0], tokenizer, options.batch, options.test, 0)
    made = rows(train, tokenizer)
    model: Any = get_peft_model(base, lora()).train()
    device = next(model.parameters()).device
    seconds: dict[str, list[float]] = {mask: [] for mask in MASKS}
    for i in range(n + 1):
        for mask in MASKS[:: 1 if i % 2 else -1]:
            batch = SegmentCollator(tokenizer.pad_token_id, segmented=mask == "segments")(made)
            batch = {name: value.to(device) for name, value in batch.items()}
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == "bfloat16"):
                loss = model(**batch).loss
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i:  # the first is slower
                seconds[mask].append(time.perf_counter() - start)
    model.unload()
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return seconds | {
        "tokens": sum(len(row["input_ids"]) for row in made),
        "ratio": statistics.fmean(ratios),
        "ratio sd": statistics.stdev(ratios),
    }


# --- the study --------------------------------------------------------------------------------


class Kept:
    """Results by key, written to a file after each by the main process."""

    def __init__(self, path: Path, settings: dict[str, Any], main: bool) -> None:
        self.path, self.main = path, main
        self.found: dict[str, Any] = {"settings": settings, "results": {}}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["settings"] == settings:
                self.found = before

    def __contains__(self, key: str) -> bool:
        return key in self.found["results"]

    def add(self, key: str, result: dict[str, Any], start: float) -> None:
        """Keep one result."""
        self.found["results"][key] = _rounded(result)
        if not self.main:
            return
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.found["results"].items()]
        text = f'{{"settings": {json.dumps(self.found["settings"])},\n"results": {{\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
        names = ("accuracy", "loss", "ratio")
        shown = {name: result[name] for name in names if name in result}
        sys.stderr.write(f"{key}: {shown}, {time.perf_counter() - start:.0f} s\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def study(model: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """All tasks, seeds and masks; each result is kept when it is there."""
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(options, folder, 0)
        model.to(args.device)
        model.config.use_cache = False
        require_mask(model)
        main = args.process_index == 0
        kept = Kept(Path(options.out) / f"{NAME}.json", settings(options, args.world_size), main)
        for task in options.tasks:
            for mask in MASKS:
                key, start = f"{task} {mask} untuned", time.perf_counter()
                if key not in kept:
                    _, test = items(task, tokenizer, options.train, options.test, 0)
                    trainer = trainer_of(model, tokenizer, mask, args, None, [])
                    kept.add(key, tested(trainer, test, tokenizer), start)
                    # The trainer leaves its autocast around `forward`.
                    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    for seed in options.seeds:
        for task in options.tasks:
            for mask in MASKS:
                key, start = f"{task} {mask} {seed}", time.perf_counter()
                if key not in kept:
                    found = trained(model, tokenizer, task, mask, seed, options)
                    kept.add(key, found, start)
    if "cost" not in kept:
        start = time.perf_counter()
        turns = 2 if options.quick else 10
        kept.add("cost", cost(model, tokenizer, options, turns), start)
    if main:
        _write_table(kept)
    return kept.found


def settings(options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """What was asked for, as it is written beside the results."""
    names = ("tasks", "seeds", "train", "test", "epochs", "steps", "batch", "rate", "warmup")
    return {
        "model": "smollm2-135m",
        "system": SYSTEM,
        "lora": {name: PAPER[name] for name in ("r", "alpha", "dropout", "modules")},
        **{name: getattr(options, name) for name in names},
        "dtype": options.dtype,
        "attention": options.attention,
        "processes": processes,
        "threads": torch.get_num_threads(),
    }


def _write_table(kept: Kept) -> None:
    table = summary(kept.found)
    with kept.path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def summary(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a task and mask: before and after training, over seeds; what a step costs."""
    results, seeds = found["results"], found["settings"]["seeds"]
    table = []
    for task in found["settings"]["tasks"]:
        for mask in MASKS:
            before = results[f"{task} {mask} untuned"]
            after = [results[f"{task} {mask} {seed}"] for seed in seeds]
            row = {"task": task, "mask": mask, "n": before["n"], "seeds": len(seeds)}
            row |= {f"untuned {name}": before[name] for name in ("accuracy", "exact", "loss")}
            for name in ("accuracy", "exact", "loss", "seconds per step"):
                mean, spread = mean_and_sd([one[name] for one in after])
                row |= {name: round(mean, 4), f"{name} sd": round(spread, 4)}
            table.append(row | {"steps": after[0]["steps"], "items": after[0]["items"]})
    return table


def ahead(found: dict[str, Any], name: str) -> dict[str, list[float]]:
    """By task: how much more the segment mask has than the causal one, for each seed."""
    results, seeds = found["results"], found["settings"]["seeds"]
    return {
        task: [
            results[f"{task} segments {seed}"][name] - results[f"{task} causal {seed}"][name]
            for seed in seeds
        ]
        for task in found["settings"]["tasks"]
    }


def error_over_items(found: dict[str, Any], task: str) -> float:
    """The standard error, over test items, of how much more accurate the segment mask is."""
    seeds = found["settings"]["seeds"]
    runs = [[found["results"][f"{task} {mask} {s}"]["right"] for s in seeds] for mask in MASKS]
    each = [
        statistics.fmean(int(b) - int(a) for a, b in zip(*pair, strict=True))
        for pair in zip(*(zip(*own, strict=True) for own in runs), strict=True)
    ]
    return statistics.stdev(each) / len(each) ** 0.5


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation of a sample; 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


# --- the page ---------------------------------------------------------------------------------


def tables(found: dict[str, Any]) -> list[str]:
    """The lines of the page's tables."""
    rows = [["task", "mask", "untuned", "tuned", "exact answer", "loss", "seconds a step"]]
    for one in summary(found):
        row = [one["task"], one["mask"], number(one["untuned accuracy"])]
        for name in ("accuracy", "exact", "loss", "seconds per step"):
            row.append(number(one[name], one[f"{name} sd"]))
        rows.append(row)
    seeds = [f"seed {seed}" for seed in found["settings"]["seeds"]]
    more = [["task", "accuracy", "error over items", *seeds, "exact answer", "loss"]]
    gained = {name: ahead(found, name) for name in ("accuracy", "exact", "loss")}
    for task, each in gained["accuracy"].items():
        means = {name: number(*mean_and_sd(by[task])) for name, by in gained.items()}
        shown = [number(value) for value in each]
        error = number(error_over_items(found, task))
        more.append([task, means["accuracy"], error, *shown, means["exact"], means["loss"]])
    return [line for table in (rows, more) for line in _lines(table)]


def number(value: float, spread: float | None = None) -> str:
    """A number of two digits, with its standard deviation if there is one."""
    text = f"{round(value, 2) + 0.0:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
    return text.replace("-", "−")


def _lines(rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def figure(found: dict[str, Any]) -> Any:
    """Accuracy of each seed before and after training, above the losses of training."""
    from plotly.subplots import make_subplots

    tasks, seeds = found["settings"]["tasks"], found["settings"]["seeds"]
    made: Any = make_subplots(
        rows=2, cols=len(tasks), subplot_titles=tasks, shared_yaxes=True, vertical_spacing=0.17
    )
    highest = 0.0
    for col, task in enumerate(tasks, 1):
        for mask, colour, shift in (("causal", "#0072b2", -0.06), ("segments", "#d55e00", 0.06)):
            before = found["results"][f"{task} {mask} untuned"]["accuracy"]
            runs = [found["results"][f"{task} {mask} {seed}"] for seed in seeds]
            after = [run["accuracy"] for run in runs]
            style = {"name": mask, "legendgroup": mask, "marker_color": colour}
            made.add_scatter(
                x=[shift, *(1 + shift for _ in after)],
                y=[before, *after],
                mode="markers",
                showlegend=False,
                **style,
                row=1,
                col=col,
            )
            mean = [shift, 1 + shift], [before, statistics.fmean(after)]
            made.add_scatter(
                x=mean[0], y=mean[1], mode="lines", showlegend=col == 1, **style, row=1, col=col
            )
            steps = zip(*(run["training loss"] for run in runs), strict=True)
            losses = [statistics.fmean(step) for step in steps]
            highest = max(highest, *losses)
            x = list(range(1, len(losses) + 1))
            made.add_scatter(x=x, y=losses, mode="lines", showlegend=False, **style, row=2, col=col)
        made.add_hline(y=0.25, line_dash="dot", line_color="#888888", row=1, col=col)
        made.update_xaxes(
            tickvals=[0, 1], ticktext=["untuned", "tuned"], range=[-0.4, 1.4], row=1, col=col
        )
        made.update_xaxes(title_text="step", row=2, col=col)
    made.update_yaxes(range=[0, 1], row=1)
    made.update_yaxes(title_text="accuracy", row=1, col=1)
    made.update_yaxes(range=[0, 1.05 * highest], row=2)
    made.update_yaxes(title_text="loss of the answer", row=2, col=1)
    made.update_layout(
        width=300 * len(tasks) + 90,
        height=560,
        template="plotly_white",
        font={"family": "sans-serif", "size": 12},
        margin={"l": 60, "r": 20, "t": 40, "b": 70},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.1},
    )
    return made


def write_page(found: dict[str, Any], picture: Path) -> None:
    """Print the tables of the page, and draw its figure."""
    from visit_tl.view.kaleido_image import draw

    picture.write_bytes(draw(figure(found), picture.suffix[1:]))
    sys.stdout.write("\n".join(tables(found)) + "\n")


def command(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Fine-tuning under segment and causal masks")
    add = parser.add_argument
    add("--tasks", nargs="+", choices=ASKED, default=list(ASKED)[:3])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--items", dest="train", type=int, default=80, help="training items of a task")
    add("--test", type=int, default=100, help="test items of a task")
    add("--epochs", type=float, default=3)
    add("--steps", type=int, default=0, help="steps instead of epochs")
    add("--batch", type=int, default=8, help="training items a step and device")
    add("--rate", type=float, default=1e-3, help="learning rate; 2e-4 in the paper")
    add("--warmup", type=int, default=3, help="steps of warm-up")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of autocast")
    add("--attention", default="sdpa", help="sdpa or eager; others do not take the mask")
    add("--threads", type=int, default=0, help="threads of torch on the CPU")
    add("--out", default=str(DATA), help="folder of the results")
    add("--save-adapters", help="folder for the adapters of the first task and seed")
    add("--figure", help="draw this file from the results in --out, print tables, train nothing")
    add("--quick", action="store_true", help="two steps on few items, to see that it runs")
    options = parser.parse_args(words)
    if options.quick:
        options.tasks, options.seeds = options.tasks[:1], options.seeds[:1]
        options.train, options.test, options.steps, options.batch = 8, 8, 2, 4
    return options


def run(words: Sequence[str] | None = None) -> dict[str, Any]:
    """The study as the command line asks for it, on the embedded model."""
    options = command(words)
    if options.figure:
        found = json.loads((Path(options.out) / f"{NAME}.json").read_text(encoding="utf-8"))
        write_page(found, Path(options.figure))
        return found
    if options.threads:
        torch.set_num_threads(options.threads)
    start = time.perf_counter()
    model, tokenizer = open_embedded(options.attention)
    found = study(model, tokenizer, options)
    sys.stderr.write(f"all: {time.perf_counter() - start:.0f} s\n")
    return found


if __name__ == "__main__":
    run()
