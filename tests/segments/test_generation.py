"""Text generated with a cache equals text generated without, under any mask."""

import warnings

import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl import InputError, ModelView
from visit_tl.model.cached_run import CachedRun

IDS = [3, 5, 7, 9, 11, 13]
SPANS = [(0, 3), (3, 5)]


@pytest.fixture(autouse=True)
def slow_models_may_be_slow():
    warnings.simplefilter("ignore", vt.PerformanceWarning)  # pytest puts the filters back


def greedy(model, n, spans):
    """Each step a run of all tokens: the twin."""
    view, ids, found = ModelView(model), list(IDS), []
    segments = None if spans is None else vt.Segments.from_spans(spans)
    for _ in range(n):
        row = view.run(torch.tensor([ids]), [], segments)[0, -1].float().log_softmax(-1)
        found.append((int(row.argmax()), float(row.max())))
        if found[-1][0] == view.tokens.eos:
            break
        ids.append(found[-1][0])
    return found


@pytest.mark.parametrize("spans", [None, SPANS, [(0, 6)], [(2, 4)]])
def test_a_cache_gives_what_whole_runs_give(model, spans):
    found = vt.generate_text(model, IDS, 5, segments=spans, verbose=False)
    expected = greedy(model, 5, spans)
    assert list(found.new_ids) == [token for token, _ in expected]
    assert found.log_probs == pytest.approx([p for _, p in expected], abs=1e-5)
    assert found.segments == tuple(spans or ())
    assert found.text == "".join(found.tokens)


def test_every_class_but_the_native_decoder_takes_a_cache(model):
    native = type(model).__name__ == "TransformerBridge" and model.cfg.model_name == "native"
    assert vt.generate_text(model, IDS, 1, verbose=False).cached != native


def test_a_prefix_is_reused_and_stays_as_it_was(model):
    prefix = vt.prefix_cache(model, IDS[:3], segments=SPANS[:1])
    whole = vt.generate_text(model, IDS, 4, segments=SPANS, verbose=False)
    for _ in range(2):
        found = vt.generate_text(model, IDS, 4, segments=SPANS, prefix=prefix, verbose=False)
        assert found.reused == 3 and found.new_ids == whole.new_ids
        assert found.log_probs == pytest.approx(whole.log_probs, abs=1e-5)
    other = [*IDS[:3], 1, 2, 4]
    assert (
        vt.generate_text(model, other, 3, segments=SPANS, prefix=prefix, verbose=False).new_ids
        == vt.generate_text(model, other, 3, segments=SPANS, verbose=False).new_ids
    )
    assert prefix.ids == tuple(IDS[:3])


def test_segments_of_the_whole_prompt_are_cut_to_the_prefix(native):
    whole = vt.Segments.from_spans(SPANS)
    assert vt.prefix_cache(native, IDS[:3], segments=whole).segments.spans == ((0, 3),)
    with pytest.raises(InputError, match="past the prompt"):
        vt.prefix_cache(native, IDS[:2], segments=whole)


def test_pieces_of_any_size_give_the_logits_of_the_whole(model):
    view = ModelView(model)
    segments = vt.Segments.from_spans(SPANS)
    whole = view.run(torch.tensor([IDS]), [], segments)[0].float()
    for cuts in ([3, 5], [3, 6], [5], [6], [3, 5, 6]):
        run, rows, before = CachedRun(view, segments), [], 0
        for cut in [*cuts, len(IDS)]:
            if cut > before:
                rows.append(run.feed(IDS[before:cut]))
            before = cut
        torch.testing.assert_close(torch.cat(rows), whole, atol=2e-5, rtol=0)


def test_pieces_that_end_inside_a_segment_are_refused(model):
    run = CachedRun(ModelView(model), vt.Segments.from_spans(SPANS))
    with pytest.raises(InputError, match=r"end inside the segment \(0, 3\)"):
        run.feed(IDS[:2])
    assert run.ids == ()


@pytest.mark.parametrize(
    ("prefix", "segments", "asked", "message"),
    [
        ([3, 5, 8], SPANS[:1], SPANS, "does not begin with the 3 tokens"),
        (IDS, SPANS, SPANS, "does not begin with the 6 tokens"),
        (IDS[:3], None, SPANS, "was run with the segments"),
        (IDS[:3], SPANS[:1], None, "was run with the segments"),
        (IDS[:4], SPANS[:1], SPANS, "end inside the segment"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(native, prefix, segments, asked, message):
    cache = vt.prefix_cache(native, prefix, segments=segments)
    with pytest.raises(InputError, match=message):
        vt.generate_text(native, IDS, 2, segments=asked, prefix=cache, verbose=False)


def test_what_is_no_prefix_of_this_model_is_refused(native, llama):
    with pytest.raises(InputError, match="not what vt.prefix_cache"):
        vt.generate_text(native, IDS, 2, prefix="system", verbose=False)
    with pytest.raises(InputError, match="another model"):
        vt.generate_text(native, IDS, 2, prefix=vt.prefix_cache(llama, IDS[:2]), verbose=False)


def test_generation_stops_at_the_end_of_the_context():
    model = tiny.native(n_ctx=8)
    found = vt.generate_text(model, IDS, 9, verbose=False)
    assert len(found.new_ids) <= 3
    with pytest.raises(InputError, match="more than the context"):
        CachedRun(ModelView(model)).feed([1] * 9)


def test_a_slow_way_is_said_once():
    if not tiny.HAS_BRIDGE:
        pytest.skip("every HookedTransformer takes a cache")
    model = tiny.native(seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", vt.PerformanceWarning)
        with pytest.raises(
            vt.PerformanceWarning, match="generating with native takes the slow way"
        ):
            vt.generate_text(model, IDS, 1, verbose=False)
        vt.generate_text(model, IDS, 1, verbose=False)


@pytest.mark.model
def test_the_real_model_generates_the_same_with_a_shared_system_prompt(smol):
    def chat(question):
        system = {"role": "system", "content": "You answer in one word."}
        return vt.Segments.from_chat(smol, [system, {"role": "user", "content": question}])

    first = chat("What is the capital of Japan?")
    end = first.spans[0][1]
    prefix = vt.prefix_cache(smol, first.token_ids[:end], segments=first)
    assert prefix.cached
    for segments in (first, chat("Name a colour.")):
        asked = {"segments": segments, "verbose": False}
        whole = vt.generate_text(smol, segments.token_ids, 4, **asked)
        found = vt.generate_text(smol, segments.token_ids, 4, prefix=prefix, **asked)
        assert found.new_ids == whole.new_ids and found.reused == end
        assert found.log_probs == pytest.approx(whole.log_probs, abs=2e-3)  # measured: 1.4e-4
