"""Whatever kernel reads, what is read is the same, ranks included."""

import pytest
import torch

from tests import tiny
from visit_tl import InputError, ModelView
from visit_tl.lens import product, tiled_readout
from visit_tl.lens import readout as lens
from visit_tl.lens.kernel_choice import LARGE, SETTING, kernel_for
from visit_tl.lens.unembed import logits as logits_of

WAYS = product.ways(torch.device("cpu"), torch.float32)
NEAR = "float32 products of either way, summed in tiles of any size"
TILES = ["256x2048", "256x4096", "512x2048", "128x4096", "100x1000", "64x64", "7x700"]
ABSURD = ["1x1", "1x1000000", "1000000x1", "3x2", "999999999x999999999"]


def made(d_vocab):
    """A view with equal columns far apart, next to which rounding decides about ranks."""
    view = ModelView(tiny.native(d_vocab=d_vocab))
    twins = torch.linspace(0, d_vocab - 1, 8).long()
    view.W_U[:, twins] = view.W_U[:, twins[:1]].clone()
    # And some that differ by the last bits of a number.
    view.W_U[:, twins[1:3] + 1] = view.W_U[:, twins[:1]] * (1 + 2**-22)
    return view, twins.tolist()


def check(view, vectors, targets, k=5):
    """Hold a readout against torch's own product; give it back."""
    readout = lens.read(view, vectors, targets, k=k)
    logits = logits_of(view, view.final_norm(vectors))
    bars = logits[:, targets]
    assert torch.equal(readout.target_ranks, (logits[:, None] > bars[..., None]).sum(-1))
    assert torch.equal(readout.target_logits, bars)
    probs = logits.double().softmax(-1)
    for ids, own, largest in (
        (readout.top_ids, readout.top_probs, True),
        (readout.bottom_ids, readout.bottom_probs, False),
    ):
        wanted = probs.topk(k, largest=largest).values
        torch.testing.assert_close(own.double(), wanted, atol=1e-7, rtol=1e-5, msg=NEAR)
        torch.testing.assert_close(own.double(), probs.gather(1, ids), atol=1e-7, rtol=1e-5)
        assert all(len(set(row)) == k for row in ids.tolist())
    entropy = torch.special.entr(probs).sum(-1)
    torch.testing.assert_close(readout.entropy.double(), entropy, atol=1e-5, rtol=1e-5)
    log_z = logits.double().logsumexp(-1)
    torch.testing.assert_close(readout.log_normaliser.double(), log_z, atol=1e-5, rtol=1e-6)
    return readout


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_and_every_tile_read_the_same_with_the_same_ranks(way, tile, monkeypatch):
    monkeypatch.setenv(SETTING, f"{way}:{tile}")
    view, twins = made(5001)
    vectors = torch.randn(70, view.d_model, generator=torch.Generator().manual_seed(0)) * 2
    ranks = check(view, vectors, [twins[0], twins[-1], twins[1] + 1, 17]).target_ranks
    assert torch.equal(ranks[:, 0], ranks[:, 1])


@pytest.mark.parametrize("tile", ABSURD)
@pytest.mark.parametrize("way", WAYS)
def test_tiles_of_one_number_or_larger_than_all_read_the_same(way, tile, monkeypatch):
    monkeypatch.setenv(SETTING, f"{way}:{tile}")
    view, twins = made(67)
    vectors = torch.randn(4, view.d_model, generator=torch.Generator().manual_seed(1)) * 2
    check(view, vectors, [twins[0], twins[-1], twins[1] + 1])


@pytest.mark.parametrize("way", WAYS)
def test_ranks_do_not_depend_on_how_much_is_left_in_doubt(way, monkeypatch):
    monkeypatch.setenv(SETTING, f"{way}:16x500")
    view, twins = made(2001)
    vectors = torch.randn(40, view.d_model, generator=torch.Generator().manual_seed(2))
    settled = []
    real = tiled_readout.untransformed

    def counted(view, x, tokens):
        settled.append(len(tokens))
        return real(view, x, tokens)

    monkeypatch.setattr(tiled_readout, "untransformed", counted)
    for rounding in (product._ROUNDING, 1e-3):
        monkeypatch.setattr(product, "_ROUNDING", rounding)
        settled.clear()
        check(view, vectors, [*twins, 17])
        assert sum(settled) > 3 * 9, "more than the targets themselves is multiplied again"


def test_where_products_depend_on_their_shape_float64_settles_what_is_in_doubt(monkeypatch):
    monkeypatch.setattr("visit_tl.lens.unembed.exact", product.rounded)
    view, twins = made(2001)
    vectors = torch.randn(40, view.d_model, generator=torch.Generator().manual_seed(3))
    targets = [*twins, twins[1] + 1, 17]
    ranks = lens.read(view, vectors, targets).target_ranks
    logits = product.rounded(view.final_norm(vectors), view.W_U)
    logits = logits if view.b_U is None else logits + view.b_U
    assert torch.equal(ranks, (logits[:, None] > logits[:, targets][..., None]).sum(-1))


@pytest.mark.parametrize("scale", [50.0, 1000.0])
def test_logits_far_below_the_largest_weigh_nothing(scale):
    view, twins = made(501)
    view.W_U = view.W_U * scale
    vectors = torch.randn(20, view.d_model, generator=torch.Generator().manual_seed(6))
    logits = logits_of(view, view.final_norm(vectors))
    assert (logits.amax(-1) - logits.amin(-1)).min() > 80
    probs = logits.double().softmax(-1)
    readout = lens.read(view, vectors, twins)
    entropy = torch.special.entr(probs).sum(-1)
    # What float32 leaves of logits so large, as an error of their exponentials.
    error = 2**-21 * float(logits.abs().max())
    own = probs.gather(1, readout.top_ids)
    torch.testing.assert_close(readout.top_probs.double(), own, atol=error, rtol=0)
    torch.testing.assert_close(readout.entropy.double(), entropy, atol=error, rtol=1e-4)


def test_every_tensor_is_made_where_the_weights_are():
    """With another default device, whatever is made without saying where meets the others."""
    view, twins = made(501)
    vectors = torch.randn(9, view.d_model, generator=torch.Generator().manual_seed(4))
    wanted = lens.read(view, vectors, twins, k=3)
    with torch.device("meta"):
        got = lens.read(view, vectors, twins, k=3)
    for name in wanted.__dataclass_fields__:
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name


def test_other_devices_and_other_types_take_the_way_that_every_device_has(monkeypatch):
    monkeypatch.delenv(SETTING)
    view = ModelView(tiny.native())
    assert kernel_for(view, 10**9, torch.float64).kernel.way == "torch"
    view.W_U = view.W_U.to("meta")
    chosen = kernel_for(view, 10**9)
    assert chosen.kernel == LARGE and "meta" in chosen.reason
    assert product.ways(torch.device("cuda"), torch.float32) == ("torch",)
    assert product.ways(torch.device("cpu"), torch.bfloat16) == ("torch",)
    monkeypatch.setenv(SETTING, "onednn:256x256")
    with pytest.raises(InputError, match="on meta can be multiplied here by torch only"):
        kernel_for(view)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_reads_what_the_cpu_reads(dtype):
    view, twins = made(9001)
    view.W_U = view.W_U.to(dtype)
    vectors = torch.randn(70, view.d_model, generator=torch.Generator().manual_seed(5))
    wanted = lens.read(view, view.final_norm(vectors), twins, apply_norm=False)
    x = view.final_norm(vectors)
    view.W_U = view.W_U.cuda()
    view.b_U = None if view.b_U is None else view.b_U.cuda()
    got = lens.read(view, x, twins, apply_norm=False)
    assert torch.equal(got.top_ids.cpu(), wanted.top_ids)
    assert (got.target_ranks == got.target_ranks[:, :1]).all()
    assert (got.target_ranks.cpu() - wanted.target_ranks).abs().max() <= 1
    torch.testing.assert_close(got.entropy.cpu(), wanted.entropy, atol=1e-5, rtol=1e-5)
