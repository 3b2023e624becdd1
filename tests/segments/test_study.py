"""The study of fine-tuning under segment masks: its items, its runs, and what its page says."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("accelerate")

from tests import tiny
from visit_tl.errors import ModelError
from visit_tl.segments import SegmentCollator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "studies" / "segment_masking.md"

_SPEC = importlib.util.spec_from_file_location(
    "segment_masking", ROOT / "examples" / "segment_masking.py"
)
assert _SPEC is not None and _SPEC.loader is not None
study = importlib.util.module_from_spec(_SPEC)
sys.modules["segment_masking"] = study  # dataclasses look their module up there
_SPEC.loader.exec_module(study)


@pytest.fixture(scope="module")
def tokenizer(smol):
    return smol.tokenizer


# --- items --------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("task", study.ASKED)
def test_no_word_is_in_training_and_in_the_test(task, tokenizer):
    train, test = study.items(task, tokenizer, 40, 60, 0)
    assert (len(train), len(test)) == (40, 60)
    of = study.ODD if task == "odd-one-out" else (task.removesuffix(study.FIRST),)
    sides = [
        {option.casefold() for item in part for option in item.options} for part in (train, test)
    ]
    assert not sides[0] & sides[1]
    for one in of:
        words = [
            {word.casefold() for pair in part for word in pair} for part in study.split(one, 60)
        ]
        assert not words[0] & words[1]
        assert sum(len(part) for part in study.split(one, 60)) == len(study.pairs(one))


@pytest.mark.model
@pytest.mark.parametrize("task", study.ASKED)
def test_an_item_has_four_options_that_their_first_tokens_tell_apart(task, tokenizer):
    train, test = study.items(task, tokenizer, 40, 60, 0)
    places = set()
    for item in (*train, *test):
        assert len(set(item.options)) == 4
        assert len({study._first(option, tokenizer) for option in item.options}) == 4
        assert all(option in item.question for option in item.options)
        places.add(item.options.index(item.answer))
    assert places == {0, 1, 2, 3}
    assert study.items(task, tokenizer, 40, 60, 1)[1] == test
    assert study.items(task, tokenizer, 40, 60, 1)[0] != train


@pytest.mark.model
def test_the_order_of_question_and_options_is_all_that_differs_between_two_tasks(tokenizer):
    one, other = (study.items(task, tokenizer, 20, 20, 0) for task in list(study.ASKED)[:2])
    for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        assert (a.options, a.answer) == (b.options, b.answer) and a.question != b.question


@pytest.mark.model
def test_the_segments_of_a_row_are_system_and_user_and_the_answer_ends(tokenizer):
    (item, *_), _ = study.items("antonym", tokenizer, 4, 4, 0)
    (made,) = study.rows([item], tokenizer)
    ids, spans = made["input_ids"], made["spans"]
    system, user = (tokenizer.decode(ids[start:end]) for start, end in spans)
    assert study.SYSTEM in system and item.question in user
    answer = tokenizer.decode(ids[made["prompt_length"] :])
    assert answer == item.answer + tokenizer.eos_token
    assert tokenizer.decode(ids[spans[-1][1] : made["prompt_length"]]) == "<|im_start|>assistant\n"


# --- the mask is taken --------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_that_takes_the_mask_is_accepted(attention):
    model = tiny.hf_llama(attn_implementation=attention).train()
    study.require_mask(model)
    assert model.training


def forgets_the_mask(own):
    return lambda input_ids, attention_mask: own(input_ids=input_ids)


def sees_everything(own):
    return lambda input_ids, attention_mask: own(
        input_ids=input_ids, attention_mask=torch.zeros_like(attention_mask)
    )


def fails(own):
    def forward(input_ids, attention_mask):
        raise ValueError("two dimensions, please")

    return forward


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        (forgets_the_mask, "does not take the mask of segments exactly"),
        (sees_everything, "does not take the mask of segments exactly"),
        (fails, "cannot run with a 4-D mask.*two dimensions, please"),
    ],
)
def test_attention_that_does_not_take_the_mask_is_refused(replaced, said, monkeypatch):
    model = tiny.hf_llama()
    monkeypatch.setattr(model, "forward", replaced(model.forward))
    with pytest.raises(ModelError, match=f"{said}.*attn_implementation='sdpa' or 'eager'"):
        study.require_mask(model)


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, beside this transformers
def test_both_masks_get_the_same_batches_from_the_same_start(tokenizer, tmp_path, monkeypatch):
    """A tiny model with the real tokenizer, through the whole study."""
    model = tiny.hf_llama(vocab_size=len(tokenizer), max_position_embeddings=128)
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = []
    collate = SegmentCollator.__call__

    def recorded(self, rows):
        batch = collate(self, rows)
        batches.append((self.segmented, batch["input_ids"].tolist(), batch["attention_mask"]))
        return batch

    monkeypatch.setattr(SegmentCollator, "__call__", recorded)
    starts = []
    set_up = study.trainer_of

    def started(model, *args):
        adapters = {n: p.clone() for n, p in model.named_parameters() if "lora" in n}
        starts.append(adapters)
        return set_up(model, *args)

    monkeypatch.setattr(study, "trainer_of", started)
    words = ["--quick", "--out", str(tmp_path), "--dtype", "float32", "--save-adapters"]
    options = study.command([*words, str(tmp_path / "adapters")])
    found = study.study(model, tokenizer, options)

    causal, segments = ([b for b in batches if b[0] == one] for one in (False, True))
    # The first three are those of `require_mask`.
    assert [ids for _, ids, _ in causal] == [ids for _, ids, _ in segments[3:]]
    assert not any(
        torch.equal(a, b) for (_, _, a), (_, _, b) in zip(causal, segments[3:], strict=True)
    )
    one, other = starts[-2:]
    assert one and all(torch.equal(one[name], other[name]) for name in one)

    assert list(found["results"]) == [
        "antonym causal untuned", "antonym segments untuned", "antonym causal 0",
        "antonym segments 0", "cost",
    ]  # fmt: skip
    run = found["results"]["antonym segments 0"]
    assert run["steps"] == 2 == len(run["training loss"]) and run["n"] == 8 == len(run["right"])
    assert run["accuracy"] == run["right"].count("1") / 8
    assert json.loads((tmp_path / "segment_masking.json").read_text(encoding="utf-8")) == found
    assert (tmp_path / "segment_masking.csv").read_text(encoding="utf-8").count("\n") == 3
    for mask in study.MASKS:
        assert (tmp_path / "adapters" / mask / "adapter_model.safetensors").is_file()

    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    n = len(batches)
    assert study.study(model, tokenizer, options) == found  # nothing is done twice
    assert len(batches) == n + 3


@pytest.mark.model
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, beside this transformers
def test_the_quick_run_trains_the_real_model(tmp_path):
    found = study.run(["--quick", "--out", str(tmp_path), "--test", "8"])
    losses = [found["results"][f"antonym {mask} 0"]["training loss"] for mask in study.MASKS]
    assert all(0 < loss < 12 for each in losses for loss in each)
    assert losses[0] != losses[1]
    for mask in study.MASKS:
        untuned, tuned = (found["results"][f"antonym {mask} {when}"] for when in ("untuned", 0))
        assert tuned["loss"] < untuned["loss"]


# --- the page -----------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_data():
    found = json.loads((study.DATA / "segment_masking.json").read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    lines = study.tables(found)
    assert len(lines) > 8 and [line for line in lines if line not in text] == []
    assert len(found["settings"]["seeds"]) >= 3
    for name in ("examples/segment_masking.py", "docs/data/segment_masking.json"):
        assert name in text
    assert "studies/segment_masking.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (PAGE.parent / target).resolve().exists(), target


def test_the_accuracy_of_a_run_is_that_of_its_items():
    found = json.loads((study.DATA / "segment_masking.json").read_text(encoding="utf-8"))
    assert found["results"].pop("cost")["ratio"] > 0
    for key, run in found["results"].items():
        assert run["accuracy"] == pytest.approx(run["right"].count("1") / run["n"], abs=1e-4), key
