"""Which tokens of a chat belong to which message, by the tokenizer's own template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from visit_tl.arguments.words import short
from visit_tl.errors import InputError

Block = tuple[tuple[int, int], str]
"""The half-open range of tokens of a message, and its role."""


def chat_blocks(
    tokenizer: Any, messages: Any, *, answer: bool = True
) -> tuple[tuple[int, ...], list[Block]]:
    """The tokens of a chat, and the range of each message.

    The template writes the first message, the first two, and so on. What it adds for a message is
    the message's text; the offsets of the tokenizer say which tokens that is. A token that two
    messages share belongs to the one in which it begins.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: Dicts with `role` and `content`.
        answer: Whether the header of the answer is added.

    Raises:
        InputError: the template or the tokenizer does not allow it; the message says why.
    """
    words = "messages are a list of dicts with role and content"
    if isinstance(messages, str | Mapping):
        raise InputError(f"{words}, got {short(messages)}")
    try:
        messages = list(messages)
    except Exception as error:  # whatever an object that cannot be gone through may raise
        raise InputError(f"{words}, got {short(messages)}") from error
    said = [_message(i, message) for i, message in enumerate(messages)]
    if not said:
        raise InputError("there are no messages; give at least one, with role and content")
    write = _writer(tokenizer)
    whole = write(said, answer)
    _require_roles(write, said)
    ends, roles = [0], []
    for i in range(1, len(said) + 1):
        text = whole if i == len(said) and not answer else _part(write, said, i)
        if not whole.startswith(text) or len(text) <= ends[-1]:
            raise InputError(
                f"the chat template does not write its messages one after the other (the text of "
                f"the first {i} is not the beginning of the whole), so their tokens cannot be "
                f"told apart; give ranges (Segments.from_spans) or separators"
            )
        ends.append(len(text))
        roles.append(said[i - 1]["role"])
    if (added := _added_system(write, said, whole[: ends[1]])) > 0:
        ends, roles = [0, added, *ends[1:]], ["system", *roles]
    ids, starts = _tokens(tokenizer, whole)
    blocks: list[Block] = []
    for i, role in enumerate(roles):
        inside = [k for k, start in enumerate(starts) if ends[i] <= start < ends[i + 1]]
        if inside:
            blocks.append(((inside[0], inside[-1] + 1), role))
    return ids, blocks


def _message(i: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping) or not all(
        isinstance(message.get(name), str) for name in ("role", "content")
    ):
        raise InputError(
            f"message {i} is no dict with the texts 'role' and 'content', got {short(message)}"
        )
    return {"role": message["role"], "content": message["content"]}


Write = Callable[[Sequence[Mapping[str, str]], bool], str]


def _writer(tokenizer: Any) -> Write:
    apply = getattr(tokenizer, "apply_chat_template", None)
    if apply is None or not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{type(tokenizer).__name__} has no chat template, so no roles can be found; give "
            f"ranges (Segments.from_spans) or separators (Segments.from_separators)"
        )

    def write(messages: Sequence[Mapping[str, str]], answer: bool) -> str:
        return str(apply(list(messages), tokenize=False, add_generation_prompt=answer))

    return write


def _part(write: Write, messages: Sequence[Mapping[str, str]], n: int) -> str:
    try:
        return write(messages[:n], False)
    except Exception as error:
        raise InputError(
            f"the chat template does not write the first {n} messages alone ({error}), so their "
            f"tokens cannot be told apart; give ranges (Segments.from_spans) or separators"
        ) from error


def _require_roles(write: Write, messages: Sequence[Mapping[str, str]]) -> None:
    """Refuse a template that writes the same text whatever the roles are."""
    swap = {"user": "assistant", "assistant": "user", "system": "user"}
    other = [{**m, "role": swap.get(m["role"], "user")} for m in messages]
    try:
        blind = write(other, False) == write(messages, False)
    except Exception:  # a template that refuses other roles looks at them
        return
    if blind:
        raise InputError(
            "the chat template writes no roles: the text is the same whoever speaks; give ranges "
            "(Segments.from_spans) or separators (Segments.from_separators)"
        )


def _added_system(write: Write, messages: Sequence[Mapping[str, str]], text: str) -> int:
    """How many characters of the first message's text are a system prompt of the template's own."""
    if messages[0]["role"] == "system":
        return 0
    system = [{"role": "system", "content": "x"}]
    try:
        before, after = write(system, False), write([*system, messages[0]], False)
    except Exception:  # the template takes no system prompt, and so adds none
        return 0
    own = after[len(before) :] if after.startswith(before) else ""
    return len(text) - len(own) if own and text.endswith(own) else 0


def _tokens(tokenizer: Any, text: str) -> tuple[tuple[int, ...], list[int]]:
    """The ids of a text's tokens, and the character at which each begins."""
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
    except (NotImplementedError, KeyError, TypeError) as error:
        raise InputError(
            f"{type(tokenizer).__name__} does not tell which characters a token is of; use a fast "
            f"tokenizer (use_fast=True), or give ranges (Segments.from_spans)"
        ) from error
    return tuple(int(i) for i in encoded["input_ids"]), [int(start) for start, _ in offsets]
