"""The parts of the page that need no script: header, choices, legend, table of heads.

Text from prompts and vocabularies is escaped by `escaping.for_html`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from visit_tl.escaping import for_html, visible
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import bos_words, from_later, number, readable
from visit_tl.graph.node_descriptions import promoted_label
from visit_tl.graph.records import Gradient, Node, Reversed, TokenProb
from visit_tl.view.legend import EDGE_LEGEND, FEATURE_LEGEND, GREY_LEGEND, RANK_LEGEND
from visit_tl.view.style import node_colour


def header(graph: GraphData, words: dict[str, str]) -> str:
    """The header of the page: model, tokens, prediction, and what was left out."""
    chips = []
    followed = {column.position for column in graph.columns}
    for i, token in enumerate(graph.tokens):
        marks = ["token"]
        note = f"position {i}"
        if i == 0 and (graph.prepend_bos or graph.bos_in_prompt):
            marks.append("bos")
            note += (
                ", a BOS put before the prompt" if graph.prepend_bos else ", the prompt's own BOS"
            )
        if (span := next((s for s in graph.segments if s[0] <= i < s[1]), None)) is not None:
            marks += ["segment", *["begins"] * (i == span[0]), *["ends"] * (i == span[1] - 1)]
            note += f", in the segment {span[0]}..{span[1] - 1}"
        if i in followed:
            marks.append("followed")
            note += ", followed back to"
        if i == graph.position:
            marks.append("here")
            note += ", the position that this graph is of"
        chips.append(
            f'<button type="button" class="{" ".join(marks)}" data-position="{i}" title="{note}">'
            f"<bdi>{for_html(visible(token))}</bdi><sub>{i}</sub></button>"
        )
    facts = _facts(graph, words)
    pairs = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    return (
        f"<h1>{for_html(words['model'])}</h1>\n"
        f'<p class="tokens">{"".join(chips)}</p>\n<dl>{pairs}</dl>'
    )


def _facts(graph: GraphData, words: dict[str, str]) -> dict[str, str]:
    """The facts under the tokens, as HTML, in the order to show them."""
    facts = {name: f"<bdi>{for_html(words[name])}</bdi>" for name in ("position", "target")}
    if "logits" in graph:
        facts["prediction"] = "".join(
            f"<span class=read><bdi>{for_html(visible(r.token))}</bdi> {number(r.prob)}</span>"
            for r in graph["logits"].top
        )
    for name, shown in (("not opened", "not opened"), ("hidden", "pruning")):
        if name in words:
            facts[shown] = for_html(words[name])
    return facts | _further_facts(graph, words)


def _further_facts(graph: GraphData, words: dict[str, str]) -> dict[str, str]:
    """What the header says only of some graphs, as HTML by name."""
    facts = {}
    if graph.bos_in_prompt:
        facts["BOS"] = bos_words(graph)
    if "patched" in words:
        facts["patched run"] = f"<bdi>{for_html(words['patched'])}</bdi>"
    late = [name for name in ("adapters", "lens") if name in words]
    facts |= {name: f"<bdi>{for_html(words[name])}</bdi>" for name in late}
    if "segments" in words:
        facts["segments"] = for_html(words["segments"])
    if "followed" in words:
        facts["followed back"] = for_html(words["followed"])
    if graph.feature_sets:
        facts["features"] = _feature_sets(graph)
    return facts


def _feature_sets(graph: GraphData) -> str:
    """The SAEs and transcoders of a graph, with what they miss, as a table."""
    rows = "".join(
        f"<tr><td>L{one.layer}.{one.site}</td><td><bdi>{for_html(readable(one.name))}</bdi></td>"
        f"<td><bdi>{for_html(readable(one.architecture))}</bdi></td>"
        f"<td class=n>{one.active} of {one.n_features}</td>"
        f"<td class=n>{number(100 * one.error_share)} %</td>"
        f"<td class=n>{number(100 * one.explained)} %</td></tr>"
        for one in graph.feature_sets
    )
    names = ("site", "SAE", "kind", "active", "error / whole", "explained")
    heads = "".join(f"<th>{name}</th>" for name in names)
    return f'<table class="sets"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def positions(graph: GraphData) -> str:
    """The positions that have whole blocks, as options; the graph's own first."""
    at = [graph.position, *(column.position for column in graph.columns if column.layers)]
    return "".join(
        f'<option value="{i}">{for_html(f"{visible(graph.tokens[i], 20)}@{i}")}</option>'
        for i in at
    )


def legend(
    d_vocab: int, *, later: bool = False, roles: Sequence[str] = (), features: bool = False
) -> str:
    """The legend of colours, shapes and widths, for the route and for the other depths.

    Args:
        d_vocab: The size of the vocabulary.
        later: Whether there may be memories of later tokens, whose edges are dashed.
        roles: The roles of heads, whose colours are around the heads.
        features: Whether there are features of SAEs, which have a rim.
    """

    def gradient(name: str) -> str:
        return (
            f'<span class="bar" style="background:linear-gradient(to right,var(--{name}))"></span>'
        )

    def swatch(name: str) -> str:
        return f'<span class="swatch" style="background:var(--{name})"></span>'

    return (
        f"<div>{gradient('ranks')}{RANK_LEGEND}: first (0) to last ({d_vocab - 1})</div>"
        '<div data-depth="route"><span class="sign state"></span>state of the residual stream</div>'
        '<div data-depth="route"><span class="sign head"></span>head, between the token it read '
        "and the one it wrote to</div>"
        '<div data-depth="route"><span class="sign memory"></span>a memory read where the graph '
        "holds no state</div>"
        '<div data-depth="route">arc: colour = rank of the target in the memory; wider = larger '
        "share of the stream</div>"
        f'<div data-depth="flow">{swatch("positive")}coefficient &gt; 0'
        f"{swatch('negative')}coefficient &lt; 0</div>"
        f'<div data-depth="flow">{gradient("greys")}{GREY_LEGEND}</div>'
        f'<div data-depth="flow">{EDGE_LEGEND}</div>'
        f"{_LATER * later}"
        f"{_role_legend(roles)}"
        f"{_FEATURE_LEGEND * features}"
        "<div>␣ space &nbsp;⏎ newline &nbsp;⇥ tab &nbsp;\\x00 a byte &nbsp;− subtracted neuron "
        "&nbsp;a → b: token a's memory reads b</div>"
    )


class _Columns(NamedTuple):
    """Which columns the table of heads has beside those of every graph."""

    effects: bool
    roles: bool
    gradients: bool


def heads(graph: GraphData, theme: str) -> str:
    """The heads as a table, as an alternative to the picture.

    If heads have effects, measured or estimated, the largest comes first; docs/studies/
    what_foretells_effects.md says why. Otherwise they are in the order of the forward pass.
    """
    memories: dict[int, list[Node]] = defaultdict(list)
    for source, target in zip(*graph.ends, strict=True):
        if (node := graph.nodes[source]).kind == "value":
            memories[target].append(node)
    shown = [(i, node) for i, node in enumerate(graph.nodes) if node.kind == "head"]
    effects = any(node.effect for _, node in shown)
    shown.sort(key=lambda one: -abs(one[1].effect.value) if one[1].effect else 0.0)
    more = any(node.gradient or node.reversed for _, node in shown)
    roles = any(node.roles for _, node in shown)
    columns = _Columns(effects, roles, more)
    rows = "".join(_head_row(graph, node, memories[i], theme, columns) for i, node in shown)
    names = ("head", "promotes", "suppresses", "rank of target", "p", "norm", "entropy", "looks at")
    names = (*names, *["roles"] * roles, *["effect"] * effects)
    heads = "".join(f"<th>{n}</th>" for n in names) + (_GRADIENT_HEADS if more else "")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _role_legend(roles: Sequence[str]) -> str:
    """The colours of roles, or nothing; a head has that of its first role."""
    if not roles:
        return ""
    each = "".join(
        f'<span class="role"><span class="swatch" style="background:var(--role-{i})"></span>'
        f"<bdi>{for_html(visible(role))}</bdi></span>"
        for i, role in enumerate(roles)
    )
    return f'<div data-part="roles">rim of a head: its first role{each}</div>'


_LATER: Final = (
    '<div><span class="dashed"></span>dashed: a memory of a later token, seen because both are in '
    "one segment (underlined above)</div>"
)

_FEATURE_LEGEND: Final = (
    f'<div data-depth="flow"><span class="swatch feature"></span>{FEATURE_LEGEND}; F123 is its '
    "index</div>"
)

_GRADIENT_HEADS: Final = (
    "<th data-sort>gradient norm</th><th>rank of target in it</th><th>a step down it adds</th>"
    "<th data-sort>reversed attention</th>"
)


def _effect_cell(head: Node) -> str:
    if head.effect is None:
        return "<td class=n></td>"
    estimated = "" if head.effect.exact else " (estimated)"
    return f"<td class=n>{number(head.effect.value)}{estimated}</td>"


def _gradient_cells(head: Node) -> str:
    def norm(found: Gradient | Reversed | None) -> str:
        if found is None:
            return "<td class=n></td>"
        return f'<td class=n data-value="{found.norm!r}">{number(found.norm)}</td>'

    gradient = head.gradient
    rank, adds = "", ""
    if gradient is not None and gradient.rank is not None:
        rank, adds = str(gradient.rank), _tokens(gradient.bottom)
    return f"{norm(gradient)}<td class=n>{rank}</td><td>{adds}</td>{norm(head.reversed)}"


def visible_words(roles: Sequence[str]) -> str:
    """Roles in one line."""
    return ", ".join(" ".join(visible(word) for word in role.split(" ")) for role in roles)


def _tokens(reads: Sequence[TokenProb]) -> str:
    return " ".join(f"<bdi>{for_html(visible(read.token))}</bdi>" for read in reads[:3])


def _head_row(
    graph: GraphData, head: Node, values: list[Node], theme: str, columns: _Columns
) -> str:
    memories = [
        f"<bdi>{for_html(visible(node.token or ''))}</bdi>@{node.id.key_position}"
        f"{' (later)' * from_later(node, graph)} "
        f"{'?' if node.coefficient is None else number(node.coefficient)}"
        for node in values
    ]
    tokens = [_tokens(reads) for reads in (head.promoted, head.suppressed)]
    if head.is_zero:
        tokens = [promoted_label(head), ""]
    colour = node_colour(head, graph.d_vocab, theme)
    numbers = (number(head.prob), number(head.norm), number(head.entropy))
    cells = [
        f"<td>{head.id}</td><td>{tokens[0]}</td><td>{tokens[1]}</td>",
        f'<td class=n><span class="dot" style="background:{colour}"></span>{head.rank}</td>',
        *(f"<td class=n>{n}</td>" for n in numbers),
        f"<td>{', '.join(memories)}</td>",
        *[f"<td>{for_html(visible_words(head.roles))}</td>"] * columns.roles,
        *([_effect_cell(head)] if columns.effects else []),
        *([_gradient_cells(head)] if columns.gradients else []),
    ]
    return f"<tr>{''.join(cells)}</tr>"
