"""Small word-level tokenizers that know every word of the package's own prompts."""

from __future__ import annotations

import functools
import re
import tempfile
from typing import Any

import pytest

from visit_tl.circuits.prompts.task_material import task_material
from visit_tl.circuits.prompts.templates import material

EXTRA = ("Zed", "Yan", "Xi", "Wes", "Val", "went", "store", "gave", "drink", "met", "cat", "dog")


@functools.cache
def vocabulary() -> tuple[str, ...]:
    own = material()
    text = " ".join(template.text for template in own.templates)
    text = re.sub(r"\{\w+\}", " ", text)
    words = {*re.findall(r"\w+", text), *own.names, *own.places, *own.objects, *EXTRA, "When"}
    return tuple(sorted(words))


TASKS = ("gendered_pronoun", "docstring", "colored_objects", "greater_than")


@functools.cache
def task_vocabulary() -> tuple[str, ...]:
    """The words of the tasks other than IOI."""
    known = {"he", "she", "That", "person"}
    for name in TASKS:
        own = task_material(name)
        text = " ".join(sentence.text for sentence in own.sentences)
        known |= set(re.findall(r"\w+", re.sub(r"\{\w+\}", " ", text)))
        known |= {word for several in own.words.values() for word in several}
    return tuple(sorted(known))


@functools.cache
def words(
    *,
    without: tuple[str, ...] = (),
    bos: bool = True,
    metaspace: bool = False,
    tasks: bool = False,
) -> Any:
    """A word is one token, with or without its space; unknown words are `<unk>`.

    Args:
        without: Words that it does not know.
        bos: Whether it has a BOS.
        metaspace: Spaces as SentencePiece has them, with one put before the text.
        tasks: Whether it knows the words of the other tasks instead of those of IOI.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    space = "\u2581" if metaspace else "\u0120"
    known = [word for word in (task_vocabulary() if tasks else vocabulary()) if word not in without]
    entries = ["<unk>", "<bos>", "<eos>", ",", ".", "-", *known, *(space + word for word in known)]
    vocab = {entry: index for index, entry in enumerate(entries)}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(prepend_scheme="first"),
                pre_tokenizers.Punctuation("isolated"),
            ]
        )
        made.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    special = {"bos_token": "<bos>"} if bos else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>", **special
    )
    # TransformerLens opens a tokenizer again by its folder, to make it prepend BOS.
    folder = tempfile.mkdtemp(prefix="visit-tl-tokenizer-")
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@functools.cache
def numbers(size: int, whole: tuple[str, ...] = ()) -> Any:
    """Numbers are cut into pieces of this many digits from the left.

    Args:
        size: 1: digit by digit. 2: "1352" is 13 and 52. 3: only numbers of three digits are known.
        whole: Numbers that are one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["The", "war", "siege", "lasted", "from", "the", "year", "to"]
    digits = [f"{number:0{size}d}" for number in range(10**size)]
    entries = [
        "<unk>",
        "<bos>",
        "<eos>",
        "\u0120",
        *words,
        *("\u0120" + w for w in words),
        *digits,
        *whole,
    ]
    vocab = {entry: index for index, entry in enumerate(entries)}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    pieces = "|".join([*whole, f"[0-9]{{1,{size}}}"])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    )


def model(*, tasks: bool = False) -> Any:
    """A random model of TransformerLens with the word-level tokenizer."""
    from tests import tiny

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "tokenizer", lambda: words(tasks=tasks))
        room = {"n_ctx": 96} if tasks else {}
        return tiny.native(d_vocab=len(words(tasks=tasks)), **room)
