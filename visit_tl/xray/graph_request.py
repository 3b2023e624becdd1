"""Make the records of graphs: run the prompts, choose what stays, read it as words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import Positions
from visit_tl.atlas.row_cache import open_atlas
from visit_tl.errors import InputError
from visit_tl.features.several import modules_of
from visit_tl.graph.container import GraphData
from visit_tl.lenses.given_lens import lens_of
from visit_tl.lenses.maps import Lens
from visit_tl.model.given_cache import Cache
from visit_tl.model.hooks import FwdHooks
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.budget import budget
from visit_tl.xray.build import HalfGraph, Plan, finish, plan, read
from visit_tl.xray.feature_explanations import explanations_of
from visit_tl.xray.feature_nodes import ShownFeatures
from visit_tl.xray.feature_sites import FeatureSites
from visit_tl.xray.node_reader import Reader
from visit_tl.xray.other_positions import Follow

_TOGETHER: Final = 24 * 2**20
"""Bytes of rows of weights that wait to be read together."""


class GraphRequest:
    """The options of a graph, checked once for all prompts.

    Args:
        view: The model.
        target: The token to follow; None is the model's own prediction.
        asked: All of `GraphOptions`.

    Raises:
        InputError: a target, layer, budget or lens that does not fit the model.
    """

    def __init__(self, view: ModelView, target: str | int | None, asked: Mapping[str, Any]) -> None:
        self.view = view
        names = ("preset", "heads", "values", "neurons")
        self.budget = budget(*(asked[name] for name in names))
        self.layers = view.check_layers(asked["layers"])
        self.lens = lens_of(view, asked["lens"], self.layers)
        self.target = None if target is None else view.tokens.single(target)
        self.features = shown_features(view, asked, self.layers)

    def follow(self, expand: int | None, positions: Positions | None, max_nodes: int) -> None:
        """Whether and how far to follow memories back."""
        self.positions = integers_or_none(positions)
        self.expand = (0 if positions is None else 1) if expand is None else expand
        self.max_nodes = max_nodes

    @property
    def extra(self) -> tuple[str, ...]:
        """The hooks to keep besides those of a trace."""
        return () if self.features is None else self.features.sites.hooks

    def plan(
        self,
        tokens: Prompt,
        position: int | None,
        cache: Cache | None = None,
        batch: int | None = None,
        fwd_hooks: FwdHooks = (),
    ) -> Plan:
        """Run a prompt, or read a cache, and choose what the graph will hold.

        Raises:
            InputError: a position that does not fit, or arguments that exclude each other.
            DecompositionError: the parts of a block do not sum to its whole.
        """
        if cache is not None and fwd_hooks:
            raise InputError("fwd_hooks patch a run, and a cache is of a run that is over; run it")
        if cache is None and batch is not None:
            raise InputError("batch is a row of a cache; pass the cache, or call flow_graphs")

        def traces(
            at: Sequence[int], layers: Sequence[int], extra: Sequence[str] = ()
        ) -> dict[int, Trace]:
            own: dict[str, Any] = {"layers": layers, "extra": extra}
            if cache is None:
                return Trace.run_at(self.view, tokens, at, fwd_hooks=fwd_hooks, **own)
            return Trace.from_cache_at(self.view, cache, tokens, at, batch=batch, **own)

        position = self.view.check_position(-1 if position is None else position, len(tokens.ids))
        trace = traces([position], self.layers, self.extra)[position]
        if not self.expand:
            return self.chosen(trace)
        n = len(tokens.ids)
        chosen = self.positions
        chosen = None if chosen is None else {self.view.check_position(j, n) for j in chosen}
        end = tokens.seen_until(position)
        if chosen is not None and (ahead := [j for j in sorted(chosen) if j >= end]):
            raise InputError(
                f"position {ahead[0]} comes after the graph's own, {position}, which cannot see it"
            )
        return self.chosen(trace, Follow(self.expand, self.max_nodes, chosen, traces))

    def chosen(self, trace: Trace, follow: Follow | None = None) -> Plan:
        """Choose what the graph of a trace will hold."""
        return plan(
            self.view,
            trace,
            target=self.target,
            budget=self.budget,
            follow=follow,
            features=self.features,
        )


def shown_features(
    view: ModelView, asked: Mapping[str, Any], layers: Sequence[int]
) -> ShownFeatures | None:
    """The features that a graph is asked to show; None if no SAE is given.

    Raises:
        InputError: an SAE that does not fit, or labels that cannot be placed.
    """
    if asked["saes"] is None:
        if asked["labels"] is not None:
            raise InputError("labels name the features of SAEs; pass saes= with them")
        return None
    sites = FeatureSites(view, modules_of(asked["saes"]), layers)
    return ShownFeatures(sites, asked["features"], explanations_of(asked["labels"], sites))


def graphs_of(
    view: ModelView,
    k: int,
    plans: Iterable[Plan],
    together: int | None = None,
    lens: Lens | None = None,
) -> Iterator[GraphData]:
    """Read the plans of several graphs.

    Rows of weights are read together, each once for all graphs that wait, as many as fit into
    memory.

    Args:
        view: The model.
        k: How many top and bottom tokens each node keeps.
        plans: The plans.
        together: How many graphs wait at most; None is no limit.
        lens: What carries vectors to the last block first; None is the logit lens.
    """
    atlas = open_atlas(view, min(k, view.d_vocab), lens)
    reader = Reader(view, k, atlas, lens)
    waiting: list[HalfGraph] = []

    def whole() -> list[GraphData]:
        graphs = finish(reader, waiting)
        waiting.clear()
        if atlas is not None:
            atlas.save()
        return graphs

    for one in plans:
        waiting.append(read(reader, one))
        if reader.nbytes > _TOGETHER or len(waiting) == together:
            yield from whole()
    yield from whole()
