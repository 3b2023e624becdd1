"""What the benchmark prints, and how much memory the readout takes. Time is never asserted."""

import math

import pytest
import torch

from tests import tiny
from visit_tl import InputError, ModelView
from visit_tl.bench.run import bench
from visit_tl.lens import readout as lens
from visit_tl.lens.machine import processor
from visit_tl.memory import peak_of

linux = pytest.mark.skipif(
    peak_of(lambda: None, torch.device("cpu"))[1] is None,
    reason="this system does not tell the peak of a process's memory",
)


@pytest.fixture(scope="module")
def report():
    return bench(
        tiny.native(), vectors=9, repeats=1, prompts=(1, 2), vocabularies=(100,), verbose=False
    )


def test_every_part_is_timed_and_held_against_the_product_of_the_same_run(report):
    parts = [row.part for row in report.rows]
    assert set(parts) == {
        "readout",
        "graph",
        "layers",
        "length",
        "prompts",
        "patching",
        "gradients",
    }
    assert all(row.seconds > 0 for row in report.rows)
    products = [r for r in report.rows if "product of" in r.what and r.ratio is not None]
    assert products and min(row.ratio for row in products) == 1
    page = next(row for row in report.rows if "written" in row.what)
    for known in ("unknown", "known"):
        built = next(r for r in report.rows if r.what == f"all blocks, rows of weights {known}")
        whole = next(r for r in report.rows if r.what.startswith(f"{known}, and the page"))
        assert math.isclose(whole.seconds, built.seconds + page.seconds)


def test_the_table_the_page_and_the_frame_say_the_same(report):
    frame = report.to_dataframe()
    assert list(frame.columns) == ["part", "what", "seconds", "ratio", "peak_mb"]
    assert len(frame) == len(report.rows)
    text, page = str(report), report.markdown()
    for row in report.rows:
        assert row.what in text and f"| {row.what} | {row.seconds:.3f} |" in page
    for figure in report.figures:
        assert figure.what in text and f"| {figure.what} | {figure} |" in page
    machine = text.splitlines()[0]
    assert str(processor()) in machine and "threads" in machine and "torch" in machine
    assert "torch:256x2048 (set by" in text and "Kernel: torch:256x2048" in page


def test_every_figure_that_the_documentation_states_is_printed(report):
    found = {figure.what: figure for figure in report.figures if figure.unit != "MB"}
    assert list(found) == [
        "readout of 9 vectors / quickest bare product",
        "the same, vocabulary 100 / quickest bare product",
        "cold graph of 2 blocks / (forward + product)",
        "its page, written",
        "1 prompts, each",
        "2 prompts, each",
        "sweep of 8 heads: a loop of hooks / visit_tl",
        "Backward Lens / (forward + backward + product)",
        "reversed attention / (forward + backward)",
    ]
    row = {row.what: row for row in report.rows}
    ours = next(r for r in report.rows if r.part == "readout" and "visit_tl" in r.what)
    assert found["readout of 9 vectors / quickest bare product"].value == ours.ratio
    page = row["its page, written"].seconds
    assert found["its page, written"].value == page and found["its page, written"].unit == "s"
    two = row["2 prompts"].seconds
    assert found["2 prompts, each"].value == two / 2


@pytest.mark.parametrize("option", ["vectors", "repeats"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(InputError, match=rf"{option} must be at least 1, got 0"):
        bench(tiny.native(), **{option: 0})


@linux
def test_reading_ten_thousand_vectors_takes_less_than_256_mb():
    view = ModelView(tiny.native())
    # A view is made anew for each call, so that changing this one changes no model.
    wide = view.W_U.new_empty((view.d_model, 49_152)).normal_(generator=torch.Generator())
    view.W_U, view.b_U, view.d_vocab = wide, None, wide.shape[1]
    vectors = torch.randn(10_000, view.d_model, generator=torch.Generator().manual_seed(0))
    lens.read(view, vectors[:64], [3])
    _, peak = peak_of(lambda: lens.read(view, vectors, [3]), view.W_U.device)
    assert peak < 256 * 2**20


@linux
def test_a_peak_is_what_was_taken_even_if_it_is_given_back():
    _, peak = peak_of(lambda: torch.ones(16 << 20).max(), torch.device("cpu"))
    assert 60 << 20 < peak < 200 << 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_is_measured_on_a_gpu(dtype):
    report = bench(
        tiny.native().to(dtype).to("cuda"),
        vectors=9,
        repeats=1,
        prompts=(1,),
        vocabularies=(),
        verbose=False,
    )
    assert any(row.peak for row in report.rows)


def test_a_model_in_half_precision_is_measured_and_its_own_product_shown():
    report = bench(
        tiny.native().to(torch.bfloat16),
        vectors=9,
        repeats=1,
        prompts=(),
        vocabularies=(),
        verbose=False,
    )
    assert any(row.what.endswith("the same in bfloat16") for row in report.rows)
    assert "bfloat16" in report.machine
