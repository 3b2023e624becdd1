"""What figures and texts of gradients say about the run: model, prompt, loss, target, patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from visit_tl.escaping import clip, clip_start, for_plotly, visible
from visit_tl.gradients.backward_lens_result import BackwardLens
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.graph.descriptions import number, patched_words, readable, segments_words

Result = BackwardLens | ReversedAttention

TEXT_WIDTH: Final = 110
_CHARACTER: Final = 6.9
"""Width in px of a character of the lines under the first, at 13 px."""
_FIRST: Final = 8.3
"""The same of the first line, at 15 px and partly bold."""
_MARGIN: Final = 14
_BUTTON: Final = 40
"""Room in px for Plotly's button at the right end of the first line."""


def loss_words(result: Result) -> str:
    """What was differentiated, its value, and where."""
    unit = "" if result.is_metric else " nats"
    return f"{readable(result.metric)} = {number(result.loss)}{unit} at position {result.position}"


def target_words(result: Result) -> str:
    """The target, and who chose it."""
    whose = "given" if result.target_given else "the model's own prediction"
    return f"{visible(result.target)} ({whose})"


def lowers(result: Result) -> str:
    """What a step down the gradient lowers."""
    return "the metric" if result.is_metric else "the loss"


def header(result: Result) -> list[str]:
    """The first lines of a text about a result, at most 110 columns wide."""
    lines = [
        ("model", readable(result.model)),
        ("prompt", f'"{clip_start(readable(result.prompt), TEXT_WIDTH - 14)}"'),
        ("metric" if result.is_metric else "loss", loss_words(result)),
        ("target", target_words(result)),
    ]
    if result.patched:
        lines.append(("patched", patched_words(result.patched)))
    if result.adapters:
        lines.append(("adapters", ", ".join(readable(name) for name in result.adapters)))
    if result.segments:
        lines.append(("segments", segments_words(result.segments)))
    return [line(name, fact) for name, fact in lines]


def line(name: str, fact: str) -> str:
    """A line of a header."""
    return clip(f"{name:<12}{fact}", TEXT_WIDTH)


def title(result: Result, lines: Sequence[str], width: int) -> dict[str, Any]:
    """The title of a figure: model and prompt, the loss, further lines, and patches.

    Each line is clipped to the width of the figure, the prompt at its start.
    """
    model = readable(result.model)
    room = max(20, round((width - 2 * _MARGIN - _BUTTON) / _FIRST) - len(model) - 5)
    prompt = clip_start(readable(result.prompt), room)
    said = [f"<b>{for_plotly(model)}</b> · “{for_plotly(prompt)}”"]
    small = [f"{loss_words(result)} · target {target_words(result)}", *lines, *_changed(result)]
    most = round((width - 2 * _MARGIN) / _CHARACTER)
    said += [f'<span style="font-size:13px">{for_plotly(clip(s, most))}</span>' for s in small]
    return {
        "text": "<br>".join(said),
        "x": 0,
        "xref": "container",
        "pad": {"l": _MARGIN, "t": 2 * _MARGIN},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }


def title_height(result: Result, lines: Sequence[str]) -> int:
    """The height in px of the title with these further lines, and a gap under it."""
    return 44 + 20 * (2 + len(lines) + len(_changed(result)))


def _changed(result: Result) -> list[str]:
    patched = [f"patched at {patched_words(result.patched)}"] if result.patched else []
    names = ", ".join(readable(name) for name in result.adapters)
    spans = [f"segments {segments_words(result.segments)}"] if result.segments else []
    return [*patched, *([f"adapters {names}"] if names else []), *spans]
