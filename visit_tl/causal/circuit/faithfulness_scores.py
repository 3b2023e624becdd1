"""Is a circuit enough? Faithfulness, completeness and minimality of a found graph.

The metric of the model reduced to the circuit (`circuit_run.py`) is compared with that of the whole
model, over pairs of prompts. The result depends on what replaces the ablated parts, so every result
names it.
"""

from __future__ import annotations

import random as random_

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Circuit,
    Flag,
    Given,
    How,
    MeanOver,
    MetricFunctions,
    Model,
    Parts,
    PromptPairs,
    Seed,
    SegmentsOfEach,
    Subsets,
    Whole,
)
from visit_tl.causal.circuit.candidates import Candidate, candidate, without
from visit_tl.causal.circuit.faithfulness_results import Completeness, Faithfulness, Minimality
from visit_tl.causal.circuit.prompt_pairs import Pairs
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Part


@checked
def faithfulness(
    model: Model,
    pairs: PromptPairs,
    metric: MetricFunctions,
    circuit: Circuit,
    *,
    how: How = "resample",
    mean_over: MeanOver | None = None,
    random: Whole = 0,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    segments: SegmentsOfEach | None = None,
    verbose: Flag = True,
) -> Faithfulness:
    """Measure how much of the metric of the whole model the circuit alone gives.

    A circuit of edges keeps these edges and cuts all others. A circuit of heads cuts only
    the edges out of other heads, so all MLPs are kept (Wang et al., 2022); if it names MLPs, other
    MLPs are ablated too. Edges are cut at all positions.

    Args:
        model: As for `flow_graph`, or a ModelView.
        pairs: (clean, corrupted) prompts with the same number of tokens, texts or ids; only the
            clean prompts if `how` does not need the corrupted ones.
        metric: A callable on the logits of one run, or a list with one for each pair.
        circuit: A FlowGraph (its heads), a Reference (its edges, or heads where it has none), or
            edges, heads and MLPs in any spelling of `visit_tl.circuits`.
        how: What ablated parts write: `resample` what they wrote in the corrupted run, `mean` the
            mean over `mean_over`, `zero` nothing.
        mean_over: For `mean`, prompts with as many tokens as the pairs.
        random: How many random circuits of the same size to measure as well: as many random heads
            (and MLPs), or as many random edges.
        seed: Seed of the random circuits.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`, of the clean prompts: one for all pairs, or a list with one
            for each. The other prompts run under the mask of the clean one.
        verbose: Show a progress bar.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: prompts or metrics that do not fit, or a circuit that the model does not have.
    """
    work = Pairs(model, pairs, metric, how, mean_over, prepend_bos, segments)
    shape = shape_of(work.view)
    chosen = candidate(shape, circuit)
    draws = random_.Random(seed)
    others = [chosen.like(shape, draws) for _ in range(random)]
    asked = [chosen.edges, frozenset(model_edges(shape)), frozenset(), *(o.edges for o in others)]
    values = work.measure(asked, "circuits", verbose)
    return Faithfulness(
        model=work.view.name,
        metric=work.metric_name,
        how=how,
        coding=chosen.coding,
        size=chosen.size,
        out_of=chosen.out_of,
        full=values[1],
        circuit=values[0],
        empty=values[2],
        corrupted=work.corrupted,
        random=tuple(values[3:]),
    )


@checked
def completeness(
    model: Model,
    pairs: PromptPairs,
    metric: MetricFunctions,
    circuit: Circuit,
    *,
    subsets: Subsets | None = None,
    random: Whole = 10,
    how: How = "resample",
    mean_over: MeanOver | None = None,
    seed: Seed = 0,
    prepend_bos: Flag | None = None,
    segments: SegmentsOfEach | None = None,
    verbose: Flag = True,
) -> Completeness:
    """Measure whether the circuit without some of its parts acts like the model without them.

    Measured is |F(C - K) - F(M - K)| for each subset K of its parts (Wang et al., 2022, section 4).
    The two differ where the model has a backup for K that the circuit does not have.

    Args:
        model: As for `faithfulness`, like the arguments that say so.
        pairs: As there.
        metric: As there.
        circuit: As there.
        subsets: By name, parts of the circuit; for a Reference, None is each of its classes.
        random: How many random subsets to try as well; each part is in one with probability 1/2.
        how: As there.
        mean_over: As there.
        seed: Seed of the random subsets.
        prepend_bos: As there.
        segments: As there.
        verbose: As there.

    Raises:
        InputError: as there, or a part that the circuit does not have, or no subset at all.
    """
    work = Pairs(model, pairs, metric, how, mean_over, prepend_bos, segments)
    shape = shape_of(work.view)
    chosen = candidate(shape, circuit)
    named = chosen.subsets(subsets if subsets is not None else getattr(circuit, "classes", {}))
    draws = random_.Random(seed)
    for i in range(random):
        named[f"random {i}"] = frozenset(p for p in chosen.removable if draws.random() < 0.5)
    chosen.require_some(named, "subsets")
    whole = frozenset(model_edges(shape))
    asked = [x for k in named.values() for x in (without(chosen.edges, k), without(whole, k))]
    values = work.measure(asked, "subsets", verbose)
    return Completeness(
        model=work.view.name,
        metric=work.metric_name,
        how=how,
        coding=chosen.coding,
        subsets={name: tuple(sorted(k, key=lambda p: p.order)) for name, k in named.items()},
        circuit=tuple(values[0::2]),
        full=tuple(values[1::2]),
    )


@checked
def minimality(
    model: Model,
    pairs: PromptPairs,
    metric: MetricFunctions,
    circuit: Circuit,
    *,
    parts: Parts | None = None,
    given: Given | None = None,
    how: How = "resample",
    mean_over: MeanOver | None = None,
    prepend_bos: Flag | None = None,
    segments: SegmentsOfEach | None = None,
    verbose: Flag = True,
) -> Minimality:
    """Measure whether every part of the circuit is needed.

    Measured is |F(C - (K + v)) - F(C - K)| for each part v, with a chosen K (Wang et al., 2022,
    section 4).

    Args:
        model: As for `faithfulness`, like the arguments that say so.
        pairs: As there.
        metric: As there.
        circuit: As there.
        parts: The parts v; None is all heads and MLPs of the circuit.
        given: By part v, its K: parts whose ablation makes v matter. Without an entry, K is empty.
        how: As there.
        mean_over: As there.
        prepend_bos: As there.
        segments: As there.
        verbose: As there.

    Raises:
        InputError: as there, or a part that the circuit does not have.
    """
    work = Pairs(model, pairs, metric, how, mean_over, prepend_bos, segments)
    chosen: Candidate = candidate(shape_of(work.view), circuit)
    wanted = chosen.removable if parts is None else chosen.members(parts)
    chosen.require_some(wanted, "parts")
    k_of = {Part.parse(v): chosen.members(k) for v, k in (given or {}).items()}
    chosen.members(k_of)
    asked = []
    for v in wanted:
        rest = without(chosen.edges, k_of.get(v, frozenset()))
        asked += [without(rest, {v}), rest]
    values = work.measure(asked, "parts", verbose)
    return Minimality(
        model=work.view.name,
        metric=work.metric_name,
        how=how,
        coding=chosen.coding,
        parts=tuple(wanted),
        given={v: tuple(sorted(k, key=lambda p: p.order)) for v, k in k_of.items()},
        without=tuple(values[0::2]),
        before=tuple(values[1::2]),
    )
