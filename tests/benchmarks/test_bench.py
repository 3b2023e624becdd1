"""What the benchmark prints, and how much memory the readout takes. Time is never asserted."""

import math

import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl import InputError, ModelView
from visit_tl.bench import sweep_parts
from visit_tl.bench.feature_parts import sae_features
from visit_tl.bench.lens_parts import through_lens
from visit_tl.bench.parts import Measurements
from visit_tl.bench.run import bench
from visit_tl.bench.sweep_parts import of_one_length, two_workers, vectors_read
from visit_tl.lens import readout as lens
from visit_tl.lens.machine import processor
from visit_tl.memory import peak_of
from visit_tl.sweeps import measure as measuring
from visit_tl.sweeps.measure import measure
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.registry import chosen_studies

linux = pytest.mark.skipif(
    peak_of(lambda: None, torch.device("cpu"))[1] is None,
    reason="this system does not tell the peak of a process's memory",
)


@pytest.fixture(scope="module")
def report():
    return bench(
        tiny.native(),
        vectors=9,
        repeats=1,
        prompts=(1, 2),
        vocabularies=(100,),
        sweeps=(2, 4),
        verbose=False,
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
        "lens",
        "features",
        "sweeps",
    }
    assert all(row.seconds > 0 for row in report.rows)
    products = [r for r in report.rows if "product of" in r.what and r.ratio is not None]
    assert products and min(row.ratio for row in products) == 1
    for part in ("lens", "features"):
        first, *others = (row for row in report.rows if row.part == part)
        assert first.what.startswith("products of 9 vectors") and first.ratio == 1 and others
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
        "vectors carried by a lens / bare products",
        "read through a lens / (read by the logit lens + bare products)",
        "standard SAE, encode and decode / bare products",
        "jumprelu SAE, encode and decode / bare products",
        "topk SAE, encode and decode / bare products",
        "study without the vocabulary / forward",
        "heads_ov / (forward + product)",
        "top_heads / (forward + product)",
        "memory_values_top3 / (forward + product)",
        "target_by_head / (forward + product)",
        "sweep: a prompt of 4 / one of 2",
    ]
    row = {row.what: row for row in report.rows}
    ours = next(r for r in report.rows if r.part == "readout" and "visit_tl" in r.what)
    assert found["readout of 9 vectors / quickest bare product"].value == ours.ratio
    page = row["its page, written"].seconds
    assert found["its page, written"].value == page and found["its page, written"].unit == "s"
    two = row["2 prompts"].seconds
    assert found["2 prompts, each"].value == two / 2


def test_ratios_of_lenses_and_saes_are_of_what_they_say(report):
    row = {row.what: row for row in report.rows if row.part in ("lens", "features")}
    found = {figure.what: figure.value for figure in report.figures}
    maps = row["products of 9 vectors with the maps of 1 blocks"].seconds
    carried = row["the same, carried by a lens"]
    assert found["vectors carried by a lens / bare products"] == carried.seconds / maps
    assert carried.ratio == carried.seconds / maps
    plain, read = row["read by the logit lens"].seconds, row["read through a lens"].seconds
    what = "read through a lens / (read by the logit lens + bare products)"
    assert found[what] == read / (plain + maps)
    both = row["products of 9 vectors with the matrices of 128 features"].seconds
    for kind in ("standard", "jumprelu", "topk"):
        ours = row[f"{kind} SAE: encode and decode"].seconds
        assert found[f"{kind} SAE, encode and decode / bare products"] == ours / both


def test_what_lenses_and_saes_are_held_against_is_the_same_work(monkeypatch):
    """The bare products are those that carrying and `apply` take, of the same vectors."""
    measured = Measurements(ModelView(tiny.native(n_layers=4)), vectors=9, repeats=1)
    done = {}

    def keep(works):
        done.update({what: work() for what, work in works.items()})
        return dict.fromkeys(works, 1.0)

    monkeypatch.setattr(measured, "time_in_turns", keep)
    first, *_ = through_lens(measured)
    assert first.what == "products of 9 vectors with the maps of 3 blocks"
    torch.testing.assert_close(torch.cat(done["products"]), done["carried"])
    changed = lens.read(measured.view, done["carried"], [5])
    torch.testing.assert_close(done["read"].target_probs, changed.target_probs)
    list(sae_features(measured))
    pre, written = done["products"]
    torch.testing.assert_close(done["standard"].features, pre.relu())
    torch.testing.assert_close(done["standard"].reconstruction, written)
    assert (done["topk"].features > 0).sum(1).max() <= 32
    assert 0 < (done["jumprelu"].features > 0).sum() < (pre > 0).sum()


def test_a_model_of_one_block_has_no_maps_to_time():
    measured = Measurements(ModelView(tiny.native(n_layers=1)), vectors=9, repeats=1)
    assert not list(through_lens(measured)) and not measured.figures


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


def test_studies_are_held_against_the_vectors_that_they_read(monkeypatch):
    """2 blocks of 4 heads, prompts of 15 tokens.

    heads_ov reads 8 heads and 4 states, top_heads 6 heads and the states, memory_values_top3 24
    memories and 8 heads, target_by_head 8 heads.
    """
    by_hand = {"heads_ov": 12, "top_heads": 10, "memory_values_top3": 32, "target_by_head": 8}
    measured = Measurements(ModelView(tiny.native()), vectors=9, repeats=1)
    assert vectors_read(measured.view, 15) == by_hand
    count = {}
    for name in ("top_ids", "read", "read_targets"):
        real = getattr(measuring, name)
        monkeypatch.setattr(
            measuring,
            name,
            lambda view, stack, *more, real=real, **k: (
                read.append(len(stack)),
                real(view, stack, *more, **k),
            )[1],
        )
    prompts = of_one_length(measured, 3)
    assert (
        len({len(p.token_ids) for p in prompts}) == 1 and len({p.token_ids for p in prompts}) == 3
    )
    for name in by_hand:
        read = []
        assert not measure(SweptModel(measured.view), prompts, chosen_studies(name)).errors
        count[name] = sum(read)
    assert count == {name: 3 * vectors for name, vectors in by_hand.items()}


def test_ratios_of_sweeps_are_of_what_they_say(report):
    seconds = {row.what: row.seconds for row in report.rows if row.part == "sweeps"}
    found = {figure.what: figure.value for figure in report.figures}
    forward = next(s for what, s in seconds.items() if what.startswith("forward pass, 4 prompts"))
    for name in ("heads_ov", "top_heads", "memory_values_top3", "target_by_head"):
        product = next(s for what, s in seconds.items() if f"vectors of {name}, quickest" in what)
        assert found[f"{name} / (forward + product)"] == seconds[name] / (forward + product)
    plain = seconds["norms of the stream, without the vocabulary"]
    assert found["study without the vocabulary / forward"] == plain / forward
    two, four = (seconds[f"heads_ov of {n} prompts, with its tables"] for n in (2, 4))
    assert found["sweep: a prompt of 4 / one of 2"] == (four / 4) / (two / 2)


def test_two_workers_and_two_processes_measure_the_same_prompts(monkeypatch, tmp_path):
    """Ray itself is tested with the sweeps; here neither it nor a process is started."""
    given = {}

    def plainly(model, halves, place):
        given["plain"] = [ids for half in halves for ids in half]
        given["sizes"] = [len(half) for half in halves]
        sweep_parts._half(model, halves[0], str(tmp_path / "half"))

    def on_ray(model, prompts, place):
        given["ray"] = prompts

    monkeypatch.setattr(sweep_parts, "find_spec", lambda name: True)
    monkeypatch.setattr(sweep_parts, "_plainly", plainly)
    monkeypatch.setattr(sweep_parts, "_on_ray", on_ray)
    measured = Measurements(ModelView(tiny.native()), vectors=9, repeats=1)
    threads = torch.get_num_threads()
    rows = {row.what: row.seconds for row in two_workers(measured, tiny.native, 5)}
    torch.set_num_threads(threads)
    assert given["ray"] == given["plain"] and given["sizes"] == [2, 3]
    assert len(vt.sweeps.open(tmp_path / "half").table("heads_ov")) == 2 * 8
    (figure,) = measured.figures
    assert figure.what == "throughput of two workers of Ray / two processes"
    ray, plain = (
        rows[f"heads_ov of 5 prompts, {what}"]
        for what in ("two workers of Ray", "two plain processes")
    )
    assert figure.value == plain / ray
    monkeypatch.setattr(sweep_parts, "find_spec", lambda name: None)
    assert not list(two_workers(measured, tiny.native, 5))
