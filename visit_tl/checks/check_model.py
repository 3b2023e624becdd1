"""Check whether a model can be X-rayed exactly: what it is, and how well each law holds.

If a model is refused, this is a result and not an error: the verdict gives the reason.
"""

from __future__ import annotations

from visit_tl import releases
from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Model
from visit_tl.checks.laws import broken_law, largest_errors, sink_words
from visit_tl.checks.report import NOT_TRIED, CheckReport, LawError, one_line
from visit_tl.checks.trials import generation_words, missing_hooks, patching_words
from visit_tl.errors import VisitError
from visit_tl.lens.kernel_choice import kernel_for
from visit_tl.model.facts import UNKNOWN, facts, facts_of_parts, unopened
from visit_tl.model.given_model import model_given
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import conservation
from visit_tl.xray.law_trial import trial_prompt


@checked
def check(model: Model) -> CheckReport:
    """Take a model apart on a short prompt and measure how well its parts sum to its wholes.

    Every block is measured at the last of up to eight tokens, spread over the vocabulary. The model
    is not changed.

    Args:
        model: As for `flow_graph`.

    Returns:
        What was found. A model that cannot be taken apart is no error: the verdict says why.

    Raises:
        ModelError: a model name that cannot be opened.
    """
    model = model_given(model)
    laws: list[LawError] = []
    missing: tuple[str, ...] | None = None
    tolerance: float | None = None
    reason: str | None = None
    patching = generation = readout = NOT_TRIED
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    told, closed, sinks, quantised = facts(model), "", "", ""
    try:
        view = ModelView(model)
        told, closed = facts_of_parts(told, view.parts), unopened(view.parts)
        adapters, quantised = view.adapters.names, view.adapters.quantised
        tolerance = conservation.tolerance(view)
        ids = trial_prompt(view)
        missing = missing_hooks(view, ids)
        trace = Trace.run(view, view.tokens.encode(ids, None))
        patched = trace.patched
        sinks = sink_words(trace, tolerance)
        laws = largest_errors(view, trace)
        reason = broken_law(view, trace, laws, tolerance)
        reason = None if reason is None else f"{reason}{left_on(model)}"
        patching = patching_words(view, ids)
        generation = generation_words(view, ids)
        readout = str(kernel_for(view))
    except VisitError as error:
        reason = one_line(str(error))
    except Exception as error:
        # Any unexpected failure is a reason not to trust a graph of this model.
        reason = one_line(f"{type(error).__name__}: {error}")
        if note := releases.newer():
            reason += f". {note}"
    return CheckReport(
        class_name=type(model).__name__,
        transformer_lens=releases.installed("transformer-lens") or UNKNOWN,
        laws=tuple(laws),
        missing=missing,
        tolerance=tolerance,
        reason=reason,
        patching=patching,
        generation=generation,
        tested=releases.tested(),
        patched=patched,
        adapters=adapters,
        readout=readout,
        quantised=quantised,
        unopened=one_line(closed),
        sinks=sinks,
        **told,
    )
