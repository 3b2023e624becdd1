"""effects: patch each node of a graph, or each head, and measure the change of a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.shared import Unpack
from visit_tl.arguments.vocabulary import (
    Direction,
    FeatureModules,
    File,
    MetricFunction,
    Model,
    Positions,
    PromptLike,
    Screen,
    Whole,
)
from visit_tl.causal.metrics import bind, evaluate, metric_name
from visit_tl.causal.patching import attribution_patching as screen
from visit_tl.causal.patching import replacements as ablate
from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.causal.patching.effects_result import Effects
from visit_tl.causal.patching.expert_patches import add_expert_values
from visit_tl.causal.patching.feature_patches import FeaturePatches
from visit_tl.causal.patching.options import (
    Asked,
    Prompts,
    chosen_nodes,
    chosen_positions,
)
from visit_tl.causal.patching.progress_file import Progress, fingerprint
from visit_tl.causal.patching.replacements import Patcher, Unpatchable
from visit_tl.causal.patching_options import PATCHING_OPTIONS, PatchingOptions
from visit_tl.errors import InputError
from visit_tl.features.several import modules_of
from visit_tl.graph.container import GraphData, Nodes
from visit_tl.graph.ids import NodeId
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


@checked
def effects(
    model: Model,
    prompt: PromptLike,
    metric: MetricFunction,
    *,
    nodes: Nodes | None = None,
    direction: Direction = "noise",
    positions: Positions | None = None,
    screen: Screen | None = None,
    top: Whole = 20,
    resume: File | None = None,
    saes: FeatureModules | None = None,
    **options: Unpack[PatchingOptions],
) -> Effects:
    """Measure what each of many nodes does to a metric, by patching one node at a time.

    The effect of a node is the metric of the run with the node's activation replaced, minus that of
    the unpatched run (docs/maths.md, "Causes"). The caller's hooks still fire, and more than once.
    Hooks, flags and modes are the same afterwards as before.

    Args:
        model: As for `flow_graph`.
        prompt: The clean prompt.
        metric: A callable on the logits `[1, pos, d_vocab]` of one run that gives a scalar; see
            `visit_tl.causal.metrics`. It may get the same tensor every time, with new values: it
            must copy what it keeps, and must not change the tensor.
        nodes: A graph of this prompt; ids; `heads` or None for every head; or a kind of state
            (`resid_pre`, `attn_out`, `resid_mid`, `mlp_out`, `resid_post`) in every block.
        direction: `noise` patches the clean run; `denoise` patches the corrupted run with
            activations of the clean one (with `resample` only).
        positions: Where each node is patched: one or several positions, all together, or `all`.
            None is the graph's position, or the last. A node whose id has a position (`L9H6@4`) is
            patched there.
        screen: `attribution` estimates all effects with one backward pass, and measures only the
            `top` largest.
        top: With `screen`, how many nodes are measured.
        resume: A JSON file that stores finished effects; an interrupted sweep continues from it.
        saes: As for `flow_graph`, for nodes that are features (`L9.z.F123`), what features miss
            (`L9.z.error`) or the rest of a reconstruction (`L9.z.b_dec`). Of a graph that was made
            with some, None is those. With `mean` and `resample`, the feature's activation in the
            other runs takes the place of its own; the error stays.
        options: `corrupted`, `how`, `mean_over`, `prepend_bos` and `verbose`; see
            `visit_tl.causal.patching_options.PatchingOptions`.

    Returns:
        The effects. Ctrl-C ends the sweep and returns what is done, with `complete=False`.

    Raises:
        InputError: prompts of unequal length, a metric that is not scalar, a node or position that
            is not there, or options that do not go together.
        FileError: `resume` is the file of another sweep or of something else, or cannot be written.
    """
    view, given = ModelView(model), {**PATCHING_OPTIONS, **options}
    segments = given["segments"]
    if segments is None and isinstance(nodes, GraphData):
        segments = nodes.segments or None
    prompts = Prompts.read(
        view, prompt, given["corrupted"], given["mean_over"], given["prepend_bos"], segments
    )
    chosen = chosen_nodes(view, nodes, prompts.clean)
    at = chosen_positions(view, nodes, positions, prompts.clean)
    asked = Asked(given["how"], direction, at, screen, top, metric)
    asked.check(prompts)
    features = _features(view, nodes, saes, chosen)
    sweep = _Sweep(view, prompts, asked, chosen, given["verbose"], features)
    return sweep.run(resume)


def _features(view: ModelView, nodes: Any, saes: Any, chosen: tuple[NodeId, ...]) -> FeaturePatches:
    """The SAEs of the nodes to patch.

    Raises:
        InputError: an SAE does not fit or is not that of the graph, or a node was named whose SAE
            was not given.
    """
    graph = nodes if isinstance(nodes, GraphData) else None
    own = () if graph is None else getattr(graph.source, "modules", ())
    found = FeaturePatches.of(view, own if saes is None else modules_of(saes), chosen)
    if graph is not None:
        found.require_modules_of(graph)
    for node in chosen:
        if node.site is not None and not found.known(node) and graph is None:
            raise InputError(
                f"{node} is of an SAE at {node.site} of block {node.layer}, which was not given; "
                f"pass it in saes="
            )
    return found


class _Sweep:
    """One call of `effects`."""

    def __init__(
        self,
        view: ModelView,
        prompts: Prompts,
        asked: Asked,
        nodes: tuple[NodeId, ...],
        verbose: bool,
        features: FeaturePatches,
    ) -> None:
        self.view, self.prompts, self.asked, self.verbose = view, prompts, asked, verbose
        self.nodes, self.features = nodes, features
        where = {*asked.positions, *(n.position for n in nodes if n.position is not None)}
        self.rows = tuple(sorted(where))
        self.keep = ablate.needed(view, nodes) | features.needed()
        self.clean = self._kept(prompts.clean)
        corrupted = prompts.corrupted
        self.corrupted = None if corrupted is None else self._kept(corrupted)
        self.metric = bind(asked.metric, view, self.clean.logits)
        self.clean_value = evaluate(self.metric, self.clean.logits)
        other = self.corrupted
        self.corrupted_value = None if other is None else evaluate(self.metric, other.logits)

    def run(self, resume: str | Path | None) -> Effects:
        """Estimate and measure the effects, and collect them."""
        progress = Progress(resume, self._about() if resume is not None else {})
        patcher = self._patcher()
        left_out: dict[NodeId, str] = {}
        writes: dict[NodeId, list[Write]] = {}
        for node in self.nodes:
            at = self.asked.positions if node.position is None else (node.position,)
            try:
                writes[node] = patcher.writes(node, at)
            except Unpatchable as reason:
                left_out[node] = str(reason)
        found: dict[NodeId, tuple[float, bool]] = {}
        wanted = list(writes)
        if self.asked.screen is not None:
            guesses = screen.estimates(
                patcher.base, patcher, [writes[node] for node in wanted], self.metric
            )
            found = {node: (v, False) for node, v in zip(wanted, guesses, strict=True)}
            wanted = [wanted[i] for i in screen.best(guesses, self.asked.top)]
        found |= {n: (progress.done[str(n)], True) for n in wanted if str(n) in progress.done}
        replay = Replay(patcher.base)
        missing = {n: writes[n] for n in wanted if not found.get(n, (0.0, False))[1]}
        complete = self._measure(replay, missing, found, progress)
        measured = [node for node in self.nodes if node in found]
        return Effects(
            model=self.view.name,
            metric=metric_name(self.metric),
            how=self.asked.how,
            direction=self.asked.direction,
            positions=self.asked.positions,
            token_ids=self.prompts.clean.ids,
            segments=self.prompts.clean.spans,
            clean=self.clean_value,
            corrupted=self.corrupted_value,
            ids=tuple(measured),
            values=tuple(found[node][0] for node in measured),
            exact=tuple(found[node][1] for node in measured),
            left_out=left_out,
            complete=complete,
            way=replay.way,
            n_layers=self.view.n_layers,
            n_heads=self.view.n_heads,
        )

    def _measure(
        self,
        replay: Replay,
        missing: dict[NodeId, list[Write]],
        found: dict[NodeId, tuple[float, bool]],
        progress: Progress,
    ) -> bool:
        """Run the model with each node patched; return False if Ctrl-C interrupted it."""
        from tqdm.auto import tqdm

        nodes = list(missing)
        noise = self.asked.direction == "noise"
        before = self.clean_value if noise or self.corrupted_value is None else self.corrupted_value
        try:
            with tqdm(total=len(nodes), desc="patching", disable=not self.verbose) as bar:
                for i, logits in replay.run(list(missing.values())):
                    value = evaluate(self.metric, logits) - before
                    found[nodes[i]] = (value, True)
                    progress.add(str(nodes[i]), value)
                    bar.update()
        except KeyboardInterrupt:
            return False
        finally:
            progress.save()
        return True

    def _patcher(self) -> Patcher:
        """The patcher for the run to patch and the activations to put in."""
        corrupted = self.corrupted
        if self.asked.direction == "denoise" and corrupted is not None:
            return Patcher(corrupted, self.clean.kept, self.features)
        if self.asked.how == "resample" and corrupted is not None:
            return Patcher(self.clean, corrupted.kept, self.features)
        if self.asked.how == "mean":
            means = (self._kept(prompt).kept for prompt in self.prompts.mean_over)
            return Patcher(self.clean, ablate.mean_of(means), self.features)
        return Patcher(self.clean, None, self.features)

    def _kept(self, prompt: Prompt) -> KeptRun:
        run = KeptRun(self.view, prompt, self.keep, self.rows)
        self.features.split(run)
        add_expert_values(run, self.nodes)
        return run

    def _about(self) -> dict[str, Any]:
        """Description of the sweep: everything that its effects depend on, except the nodes."""
        other, spans = self.prompts.corrupted, self.prompts.clean.spans
        return {
            "model": self.view.name,
            "weights": fingerprint(self.view),
            "metric": metric_name(self.metric),
            "how": self.asked.how,
            "direction": self.asked.direction,
            "positions": list(self.asked.positions),
            "tokens": list(self.prompts.clean.ids),
            "corrupted tokens": None if other is None else list(other.ids),
            "mean_over": [list(prompt.ids) for prompt in self.prompts.mean_over],
            "metric of the clean run": self.clean_value,
            "metric of the corrupted run": self.corrupted_value,
            **({"segments": [list(s) for s in spans]} if spans else {}),
            **({"saes": about} if (about := self.features.about()) else {}),
        }
