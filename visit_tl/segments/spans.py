"""Segments as data: ranges of tokens that see each other in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.vocabulary import TOKEN_IDS, Integer, Names, Theme, Whole
from visit_tl.arguments.words import short
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.descriptions import readable
from visit_tl.segments.chat_template import chat_blocks
from visit_tl.segments.separators import blocks_between

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import Tensor

Spans = Annotated[Any, Unchecked("Segments says which range is wrong, and how")]
Labels = Annotated[Any, Unchecked("any values that can be compared are labels")]
Tokenizer = Annotated[
    Any, Unchecked("a model or a tokenizer; what it lacks is named where it is used")
]
Messages = Annotated[Any, Unchecked("chat_blocks says which message is wrong")]
TokenIds = Annotated[Any, TOKEN_IDS]
TokenTexts = Annotated[Any, Unchecked("with_tokens says which of them is no text")]
Separators = Annotated[Any, Unchecked("blocks_between says what a separator is")]


@dataclass(frozen=True)
class Segments(Drawn):
    """Ranges of a prompt's tokens within which every token sees every other.

    A query sees a key if the key does not come later, or if both are in one segment (Katz et al.,
    2025). Tokens in no segment are causal, and so is all that comes after the last one: an answer,
    or what is generated. Positions count from 0 over the tokens that the model gets, its BOS
    included.

    Attributes:
        spans: Half-open ranges `(start, end)` of positions, in order.
        names: A name for each, such as the role of a message; empty texts if there are none.
        tokens: The text of each token of the prompt, if known.
        token_ids: Their ids, if known; the segments then fit this prompt only (and what continues
            it).

    Raises:
        InputError: ranges that overlap, are empty, negative, or end past the prompt.
    """

    spans: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()
    tokens: tuple[str, ...] = field(default=(), repr=False)
    token_ids: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        names = self.names or ("",) * len(self.spans)
        if len(names) != len(self.spans):
            raise InputError(f"there are {len(self.spans)} segments but {len(names)} names")
        order = sorted(range(len(self.spans)), key=lambda i: self.spans[i])
        object.__setattr__(self, "spans", tuple(self.spans[i] for i in order))
        object.__setattr__(self, "names", tuple(names[i] for i in order))
        before = 0
        for i, (start, end) in enumerate(self.spans):
            if start < 0:
                raise InputError(f"the segment ({start}, {end}) begins before the prompt")
            if end <= start:
                raise InputError(
                    f"the segment ({start}, {end}) is empty; a segment is (first position, one "
                    f"past the last)"
                )
            if i and start < before:
                raise InputError(
                    f"the segments {self.spans[i - 1]} and {self.spans[i]} overlap; each token is "
                    f"in one segment at most"
                )
            before = end
        known = len(self.token_ids) or len(self.tokens)
        if self.tokens and self.token_ids and len(self.tokens) != len(self.token_ids):
            raise InputError(
                f"there are {len(self.tokens)} token texts but {len(self.token_ids)} token ids"
            )
        if known:
            self.check(known)

    # --- making them ---------------------------------------------------------------------------

    @classmethod
    @checked
    def from_spans(cls, spans: Spans, *, names: Names | None = None) -> Segments:
        """Segments from half-open ranges, such as `[(0, 8), (8, 15)]`.

        Args:
            spans: Pairs `(start, end)` of token positions; tokens in none of them are causal.
            names: A name for each.
        """
        return cls(tuple(_span(span) for span in listed(spans, "segments")), tuple(names or ()))

    @classmethod
    @checked
    def from_labels(cls, labels: Labels) -> Segments:
        """Segments from one label a token: neighbours with equal labels are one segment.

        Args:
            labels: Such as `["system", "system", "user", None]`; tokens with None are causal.
        """
        spans: list[tuple[int, int]] = []
        names: list[str] = []
        before: Any = None
        for i, label in enumerate(listed(labels, "labels")):
            if label is not None and i and _same(label, before):
                spans[-1] = (spans[-1][0], i + 1)
            elif label is not None:
                spans.append((i, i + 1))
                names.append(short(label) if not isinstance(label, str) else label)
            before = label
        return cls(tuple(spans), tuple(names))

    @classmethod
    @checked
    def from_separators(
        cls,
        token_ids: TokenIds,
        separators: Separators,
        *,
        tokenizer: Tokenizer | None = None,
    ) -> Segments:
        """Segments that end with separators; what comes after the last one is causal.

        This is the rule of the public code of the paper for its instruction data, where each block
        ends with the token ` ###`.

        Args:
            token_ids: The tokens of the prompt.
            separators: One or several; each a text, a token id, or a tuple of token ids. A text is
                looked for in the decoded tokens, and the token in which it ends is the block's
                last.
            tokenizer: A model or a tokenizer that decodes the ids; needed if a separator is a text.

        Raises:
            InputError: no separator is in the prompt, or a text without a tokenizer.
        """
        ids = _ids(token_ids)
        texts = () if tokenizer is None else _texts(tokenizer, ids)
        spans = blocks_between(ids, texts, separators)
        return cls(spans, (), texts, ids)

    @classmethod
    @checked
    def from_chat(
        cls,
        tokenizer: Tokenizer,
        messages: Messages,
        *,
        roles: Names = ("system", "user"),
        answer: bool = True,
    ) -> Segments:
        """Segments from the messages of a chat, written by the tokenizer's own template.

        Each message of the chosen roles is a segment, from the first token that its template writes
        to the last. Messages of other roles, and the header of the answer, are causal. A system
        prompt that the template adds by itself is a segment of its own. `token_ids` of the result
        is the prompt.

        Args:
            tokenizer: A tokenizer with a chat template and offsets, or a model that has one.
            messages: As `apply_chat_template` takes them: dicts with `role` and `content`.
            roles: The roles whose messages see all of themselves.
            answer: Whether the prompt ends with the header of the answer.

        Raises:
            InputError: there is no template, it writes no roles, or it does not write the messages
                one after the other; or the tokenizer knows no offsets.
        """
        own = getattr(tokenizer, "tokenizer", None) or tokenizer
        ids, blocks = chat_blocks(own, messages, answer=answer)
        chosen = [(span, role) for span, role in blocks if role in roles]
        if not chosen:
            raise InputError(
                f"no message has one of the roles {list(roles)}; the messages are of "
                f"{sorted({role for _, role in blocks})}"
            )
        spans, names = zip(*chosen, strict=True)
        return cls(tuple(spans), tuple(names), _texts(own, ids), ids)

    # --- asking them ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def end(self) -> int:
        """One past the last position of the last segment; 0 if there is none."""
        return self.spans[-1][1] if self.spans else 0

    @property
    def causal(self) -> bool:
        """Whether the mask is the causal one: no segment has two tokens."""
        return all(end - start == 1 for start, end in self.spans)

    @checked
    def span_at(self, position: Whole) -> tuple[int, int]:
        """The range of the segment that a position is in; of itself alone if it is in none."""
        for start, end in self.spans:
            if start <= position < end:
                return start, end
        return position, position + 1

    @checked
    def shifted(self, by: Integer) -> Segments:
        """The same segments, `by` positions later: 1 for a BOS that comes before them."""
        spans = tuple((start + by, end + by) for start, end in self.spans)
        return Segments(spans, self.names)

    @checked
    def check(self, length: Whole) -> None:
        """Require that the segments fit into a prompt of this many tokens.

        Raises:
            InputError: a segment ends past the prompt.
        """
        if self.end > length:
            raise InputError(
                f"the segment {self.spans[-1]} ends past the prompt, which has {length} tokens"
            )

    @checked
    def mask(self, length: Whole | None = None) -> Tensor:
        """Which queries see which keys.

        Args:
            length: Number of tokens; those past the last segment are causal. None is the length of
                the prompt if it is known, else the end of the last segment. If it is shorter than
                the segments, they are cut.

        Returns:
            True where a query sees a key, `[1, 1, query, key]`.
        """
        from visit_tl.segments.masks import allowed

        size = length if length is not None else len(self.token_ids) or len(self.tokens) or self.end
        return allowed(self.spans, size)[None, None]

    @checked
    def with_tokens(self, tokens: TokenTexts, token_ids: TokenIds | None = None) -> Segments:
        """The same segments with the tokens of a prompt, for printing and drawing.

        Args:
            tokens: The text of each token.
            token_ids: Their ids, if known.

        Raises:
            InputError: these are no texts, or too few for the segments.
        """
        ids = () if token_ids is None else _ids(token_ids)
        return replace(self, tokens=_token_texts(tokens), token_ids=ids)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a segment: name, start, end, length and, if the tokens are known, text."""
        import pandas as pd

        rows = [
            {"name": name, "start": start, "end": end, "length": end - start}
            | ({"text": "".join(self.tokens[start:end])} if self.tokens else {})
            for name, (start, end) in zip(self.names, self.spans, strict=True)
        ]
        columns = ["name", "start", "end", "length", *(["text"] if self.tokens else [])]
        return pd.DataFrame(rows, columns=columns)

    @checked
    def figure(self, *, theme: Theme = "light") -> go.Figure:
        """The mask as a map: a row for each query, a column for each key.

        Args:
            theme: `light` or `dark`.

        Raises:
            InputError: there is no token to draw, or no such theme.
        """
        return self._drawn("figure", theme=theme)

    def __str__(self) -> str:
        size = len(self.token_ids) or len(self.tokens) or self.end
        inside = sum(end - start for start, end in self.spans)
        head = f"{len(self.spans)} segments of {inside} tokens; the other tokens are causal"
        if self.tokens or self.token_ids:
            head = f"{len(self.spans)} segments; {size - inside} of {size} tokens are causal"
        lines = [head]
        for name, (start, end) in zip(self.names, self.spans, strict=True):
            text = readable("".join(self.tokens[start:end])) if self.tokens else ""
            shown = text if len(text) <= 60 else f"{text[:40]}…{text[-19:]}"
            where = f"{start}..{end - 1}" if end - start > 1 else str(start)
            called = readable(name) if name else ""
            lines.append(f"  {where:>9}  {called:<10} {shown}".rstrip())
        return "\n".join(lines)


def _ids(given: Any) -> tuple[int, ...]:
    """Token ids as integers.

    Raises:
        InputError: a tensor is not a row of integers.
    """
    if not isinstance(given, list | tuple | range) and hasattr(given, "tolist"):
        try:
            given = given.tolist()
        except Exception as error:  # such as of a tensor without values
            raise InputError(f"these token ids cannot be read: {error}") from error
    if not isinstance(given, list | tuple | range) or any(type(i) is not int for i in given):
        raise InputError(f"token ids are integers in one row, got {short(given)}")
    return tuple(given)


def _token_texts(given: Any) -> tuple[str, ...]:
    found = given if isinstance(given, list | tuple) else None
    if found is None or not all(isinstance(text, str) for text in found):
        kind = type(given).__name__
        raise InputError(f"tokens are a list of texts, one for each token, got {kind}")
    return tuple(found)


def listed(given: Any, what: str) -> list[Any]:
    """The items of what a caller gave.

    Raises:
        InputError: it is no list, nor like one.
    """
    try:
        found = None if isinstance(given, str | Mapping) else list(given)
    except Exception:  # whatever an object that cannot be gone through may raise
        found = None
    if found is None:
        raise InputError(f"{what} are a list, got {short(given)}")
    return found


def _same(label: Any, other: Any) -> bool:
    try:
        return bool(label == other)
    except Exception as error:  # such as of arrays, which have no one truth
        raise InputError(
            f"the labels {short(label)} and {short(other)} cannot be compared"
        ) from error


def _span(given: Any) -> tuple[int, int]:
    try:
        start, end = given
        read = int(start), int(end)
        exact = not isinstance(given, str | bytes) and read == (start, end)
        exact = exact and not any(isinstance(x, bool) for x in (start, end))
    except Exception:  # whatever an object that is no pair may raise
        exact, read = False, (0, 0)
    if not exact:
        raise InputError(
            f"a segment is a pair of integers (first position, one past the last), got "
            f"{short(given)}"
        )
    return read


def _texts(tokenizer: Any, ids: tuple[int, ...]) -> tuple[str, ...]:
    own = getattr(tokenizer, "tokenizer", None) or tokenizer
    decode = getattr(own, "decode", None)
    if decode is None:
        raise InputError(f"{type(own).__name__} is no tokenizer: it cannot decode token ids")
    try:
        return tuple(str(decode([i])) for i in ids)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{type(own).__name__} cannot decode token ids: {error}") from error
