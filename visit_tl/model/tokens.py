"""Text to token ids and back, with the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from visit_tl.arguments.plain import half_pair
from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.segments.spans import Segments

_BROKEN = "\N{REPLACEMENT CHARACTER}"

_TEXTS: WeakKeyDictionary[Any, tuple[int, dict[int, str]]] = WeakKeyDictionary()
"""For each tokenizer, its number of tokens and the token texts decoded so far.

Decoding the 10,000 tokens that a graph shows takes 50 ms and 0.7 MB; the next graph shows many of
them again.
"""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        text: The text that was given; the decoded tokens if ids were given.
        ids: Token ids, in order.
        prepend_bos: Whether the first of them is a BOS that the text does not contain.
        bos_in_prompt: Whether the given text or ids already begin with a BOS.
        segments: Ranges of tokens that see each other, under whose mask it is run; None is causal.
    """

    text: str
    ids: tuple[int, ...]
    prepend_bos: bool
    bos_in_prompt: bool = False
    segments: Segments | None = None

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The ranges of the segments; empty if the run is causal."""
        return () if self.segments is None else self.segments.spans

    def seen_until(self, position: int) -> int:
        """One past the last position that this one sees."""
        return position + 1 if self.segments is None else self.segments.span_at(position)[1]


class Tokens:
    """The tokenizer of one model.

    Args:
        model: A TransformerLens model; its tokenizer may be None.
        d_vocab: Number of token ids of the model.
        n_ctx: Largest number of positions of the model.
        name: Name of the model, for messages.
    """

    def __init__(self, model: Any, d_vocab: int, n_ctx: int, name: str) -> None:
        self._model = model
        self._tokenizer = getattr(model, "tokenizer", None)
        self._d_vocab = d_vocab
        self._n_ctx = n_ctx
        self.name = name
        self._texts = _texts_of(self._tokenizer)

    @property
    def eos(self) -> int | None:
        """The token that ends a text; None if the tokenizer has none."""
        return getattr(self._tokenizer, "eos_token_id", None)

    def encode(self, prompt: str | Sequence[int] | Tensor, prepend_bos: bool | None) -> Prompt:
        """Tokenise as the model's own `to_tokens` does, but do not add a second BOS by default.

        Args:
            prompt: Text, or token ids of shape [pos] or [1, pos], which are used unchanged.
            prepend_bos: Whether to put a BOS before a text. None uses the model's own default, but
                adds no BOS to a text that already begins with one, as chat templates do.

        Raises:
            InputError: the prompt is empty or longer than the context, an id is outside the
                vocabulary, a batch was given, or a text for a model without a tokenizer.
        """
        if isinstance(prompt, str):
            self._need_tokenizer()
            if not prompt:
                raise InputError("the prompt is empty; give at least one character to read")
            own = self._plain_ids(prompt)
            begins = self._begins_with_bos(own)
            ids = self._encode_text(
                prompt, False if begins and prepend_bos is None else prepend_bos
            )
            has_bos = self._begins_with_bos(ids) and len(ids) > len(own)
            text = prompt
        else:
            ids, has_bos = self._check_ids(prompt), False
            begins = self._begins_with_bos(ids)
            text = "".join(self.text(i) for i in ids)
        if len(ids) > self._n_ctx:
            raise InputError(
                f"the prompt has {len(ids)} tokens, but {self.name} has a context of "
                f"{self._n_ctx}; shorten it by {len(ids) - self._n_ctx}"
            )
        return Prompt(text, tuple(ids), has_bos, begins)

    def single(self, target: str | int) -> int:
        """The id of a target, which must be one token.

        Raises:
            InputError: the text is not one token (the message shows how it splits, and what may
                have been meant), or the id is outside the vocabulary.
        """
        if isinstance(target, int) and not isinstance(target, bool):
            return self._check_ids([target])[0]
        if not isinstance(target, str) or not target:
            raise InputError(f"a target is one token, as text or as id; got {target!r}")
        self._need_tokenizer()
        ids = self._plain_ids(target)
        if len(ids) == 1:
            return ids[0]
        split = " + ".join(repr(self.text(i)) for i in ids)
        message = f"the target {target!r} is {len(ids)} tokens of {self.name}: {split}"
        if not ids:
            message = f"the target {target!r} is no token of {self.name}, nor made of its tokens"
        spaced = " " + target.lstrip(" ")
        if target != spaced and len(self._plain_ids(spaced)) == 1:
            raise InputError(f"{message}; did you mean {spaced!r}, with its space?")
        raise InputError(f"{message}; choose a target that is one token, such as the first one")

    def bos(self, prepend_bos: bool | None) -> int | None:
        """The BOS that `encode` puts before a text; None if it puts none.

        Raises:
            InputError: `prepend_bos` is True, but there is no tokenizer or no BOS.
        """
        found = getattr(self._tokenizer, "bos_token_id", None)
        if prepend_bos and found is None:
            raise InputError(f"{self.name} has no BOS to prepend; leave prepend_bos out")
        if prepend_bos is False or found is None:
            return None
        ids = self._encode_text("a", prepend_bos)
        return found if self._begins_with_bos(ids) else None

    def plain(self) -> list[int]:
        """The ids that a text is made of: no special tokens, and none that only pad the matrix."""
        if self._tokenizer is None:
            return list(range(self._d_vocab))
        special = set(getattr(self._tokenizer, "all_special_ids", ()))
        known = min(len(self._tokenizer), self._d_vocab)
        return [i for i in range(known) if i not in special]

    def split(self, text: str) -> list[int]:
        """The ids of a text, without a BOS."""
        self._need_tokenizer()
        return self._plain_ids(text)

    def text(self, token_id: int) -> str:
        """The text of one token; bytes that are not valid text alone are shown as `<0xE2>`."""
        if token_id not in self._texts:
            self._texts[token_id] = self._read(token_id)
        return self._texts[token_id]

    def texts(self, token_ids: Iterable[int]) -> Mapping[int, str]:
        """The texts of these tokens, by id; the mapping also has tokens decoded earlier."""
        for token_id in token_ids:
            self.text(token_id)
        return MappingProxyType(self._texts)

    # --- details -------------------------------------------------------------------------------

    def _encode_text(self, prompt: str, prepend_bos: bool | None) -> list[int]:
        options = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
        tokens = self._model.to_tokens(prompt, truncate=False, **options)
        ids = [int(i) for i in tokens[0]]
        if not ids:
            raise InputError(f"the prompt {prompt!r} has no tokens for {self.name}")
        return self._check_ids(ids)

    def _begins_with_bos(self, ids: Sequence[int]) -> bool:
        # By ids and not by text: not every tokenizer reads the spelling of BOS as the BOS token.
        bos = getattr(self._tokenizer, "bos_token_id", None)
        return bos is not None and list(ids[:1]) == [bos]

    def _plain_ids(self, text: str) -> list[int]:
        _require_text(text)
        tokens = self._model.to_tokens(text, prepend_bos=False, truncate=False)
        return [int(i) for i in tokens[0]]

    def _check_ids(self, ids: Sequence[int] | Tensor) -> list[int]:
        try:
            tensor = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"a prompt is a text or token ids, got {short(ids)}") from error
        if tensor.ndim == 2 and tensor.shape[0] != 1:
            raise InputError(
                f"a graph shows one prompt, but a batch of {tensor.shape[0]} was given; "
                f"pass one row, tokens[i]"
            )
        tensor = tensor.reshape(-1) if tensor.ndim == 2 else tensor
        if tensor.ndim != 1 or tensor.numel() == 0:
            raise InputError("the prompt is empty; give at least one token id, as [pos]")
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise InputError(f"token ids are integers, but {tensor.dtype} was given")
        out = [int(i) for i in tensor if not 0 <= int(i) < self._d_vocab]
        if out:
            raise InputError(f"token id {out[0]} is outside 0..{self._d_vocab - 1} of {self.name}")
        return [int(i) for i in tensor]

    def _need_tokenizer(self) -> None:
        if self._tokenizer is None:
            raise InputError(
                f"{self.name} has no tokenizer; pass the prompt as token ids and the target as id"
            )

    def _read(self, token_id: int) -> str:
        if self._tokenizer is None:
            return f"<{token_id}>"
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return f"<{token_id}>"
        # SentencePiece marks a leading space by U+2581, and decode() of one token drops it.
        if isinstance(piece, str) and piece.startswith("\u2581"):
            return piece.replace("\u2581", " ")
        # Cleaning up would turn ' .' into '.', which is another token.
        text = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        if _BROKEN in text and isinstance(piece, str) and (raw := _bytes_of(piece)) is not None:
            return _show_bytes(raw)
        return text or str(piece)


def _require_text(text: str) -> None:
    """Refuse half of a surrogate pair, on which tokenizers fail."""
    if (at := half_pair(text)) is not None:
        raise InputError(f"{text!r} is not valid text: surrogates not allowed at {at}")


def _texts_of(tokenizer: Any) -> dict[int, str]:
    """The cached texts of a tokenizer; a new cache if tokens were added to the tokenizer."""
    if tokenizer is None:
        return {}
    count, texts = _TEXTS.get(tokenizer, (None, {}))
    if count != len(tokenizer):
        texts = {}
        _TEXTS[tokenizer] = len(tokenizer), texts
    return texts


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins that byte-level BPE uses for bytes, as GPT-2 defined them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTES = _byte_alphabet()


def _bytes_of(piece: str) -> bytes | None:
    if any(char not in _BYTES for char in piece):
        return None
    return bytes(_BYTES[char] for char in piece)


def _show_bytes(raw: bytes) -> str:
    """Bytes as text: whole characters unchanged, each remaining byte as `<0xE2>`."""
    shown = raw.decode("utf-8", errors="backslashreplace")
    if "\\x" not in shown:
        return shown
    parts: list[str] = []
    at = 0
    while at < len(raw):
        for size in (1, 2, 3, 4):
            try:
                parts.append(raw[at : at + size].decode("utf-8"))
                at += size
                break
            except UnicodeDecodeError:
                continue
        else:
            parts.append(f"<0x{raw[at]:02X}>")
            at += 1
    return "".join(parts)
