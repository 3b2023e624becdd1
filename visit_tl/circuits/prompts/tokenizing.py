"""Get the tokenizer of a model, and find which words are single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens
from visit_tl.model.view import model_of_view

# Words are tokenised after this one, because SentencePiece adds a space before the first word.
_CARRIER = "and"


class BareTokenizer:
    """A Hugging Face tokenizer with the two attributes of a model that `Tokens` uses.

    Like a TransformerLens model, it prepends a BOS by default if the tokenizer has one.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def to_tokens(
        self, text: str, prepend_bos: bool | None = None, truncate: bool = False
    ) -> Tensor:
        """Token ids of shape [1, pos].

        Raises:
            InputError: `prepend_bos` is True, but the tokenizer has no BOS.
        """
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        if prepend_bos and bos is None:
            raise InputError("this tokenizer has no BOS token to prepend; say prepend_bos=False")
        if prepend_bos is not False and bos is not None:
            ids = [bos, *ids]
        return torch.tensor([ids], dtype=torch.long)


def open_tokens(model: Any) -> Tokens:
    """Get `Tokens` from a model, a `ModelView` or a Hugging Face tokenizer.

    Raises:
        InputError: the argument is none of these, or a model without a tokenizer.
    """
    if isinstance(model, Tokens):
        return model
    model = model_of_view(model)
    if hasattr(model, "to_tokens") and hasattr(model, "cfg"):
        cfg = model.cfg
        name = str(getattr(cfg, "model_name", None) or type(model).__name__)
        if getattr(model, "tokenizer", None) is None:
            raise InputError(f"{name} has no tokenizer, and prompts of words need one")
        return Tokens(model, int(cfg.d_vocab), int(cfg.n_ctx), name)
    if hasattr(model, "convert_ids_to_tokens") and hasattr(model, "model_max_length"):
        name = str(getattr(model, "name_or_path", "") or type(model).__name__)
        return Tokens(BareTokenizer(model), len(model), int(model.model_max_length), name)
    raise InputError(
        f"{type(model).__name__} has no tokenizer that could be used; pass a TransformerLens "
        f"model, a ModelView, or a tokenizer of transformers"
    )


def name_of(tokens: Tokens) -> str:
    """The name of the model or tokenizer, for messages and records."""
    return tokens.name


def token_after_space(tokens: Tokens, word: str) -> int | None:
    """The id of a word in the middle of a sentence, or None if it is not one token there."""
    base = _plain(tokens, _CARRIER)
    ids = _plain(tokens, f"{_CARRIER} {word}")
    if len(ids) != len(base) + 1 or ids[: len(base)] != base:
        return None
    # An unknown word may be a single token too: the unknown token.
    return ids[-1] if tokens.text(ids[-1]).strip() == word else None


def first_token(tokens: Tokens, word: str) -> int | None:
    """The id of the first token of a word in the middle of a sentence; None if there is none."""
    base = _plain(tokens, _CARRIER)
    ids = _plain(tokens, f"{_CARRIER} {word}")
    return ids[len(base)] if len(ids) > len(base) and ids[: len(base)] == base else None


def pieces(tokens: Tokens, words: Sequence[str]) -> str:
    """How the tokenizer splits each word in the middle of a sentence, for messages."""
    skipped = len(_plain(tokens, _CARRIER))
    split = {word: _plain(tokens, f"{_CARRIER} {word}")[skipped:] for word in words}
    return "; ".join(
        f"{word!r} = {' + '.join(repr(tokens.text(i)) for i in ids) or 'nothing'}"
        for word, ids in split.items()
    )


def _plain(tokens: Tokens, text: str) -> tuple[int, ...]:
    return tokens.encode(text, False).ids
