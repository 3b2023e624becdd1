"""Running parts of a model again gives what running all of it gives, or falls back to that."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import visit_tl
from tests import tiny
from tests.conftest import MAKERS, made
from tests.plain_hooks import by_hand
from visit_tl import InputError, ModelError, ModelView, PerformanceWarning
from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.model.block_parts import BlockParts
from visit_tl.model.replay.block_calls import BlockCalls
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.past import Past
from visit_tl.model.replay.patch import Write

IDS = [0, 1, 2, 3, 4, 5, 6]
N = len(IDS)
BRIDGED = []
if tiny.HAS_BRIDGE:
    from tests.architectures import ARCHITECTURES

    # The adapter of 3.9 does not know Cohere's query norms.
    BRIDGED = [
        name
        for name, row in ARCHITECTURES.items()
        if not row.experts and not (name == "cohere-qk-norm" and tiny.RELEASE < (4,))
    ]
# What has no cache of keys and values in its blocks: all positions are computed again.
WITHOUT_PAST = {"native", "falcon-rw"} if tiny.RELEASE < (4,) else {"native"}
if not tiny.HAS_BRIDGE:
    WITHOUT_PAST = set()


def opened(name):
    return made(name) if name in MAKERS else ARCHITECTURES[name].bridge()


def kept(model, ids=IDS):
    view = ModelView(model)
    return KeptRun(view, view.tokens.encode(ids, None))


def writes(view, position, seed=0):
    """One change of every kind of hook in every block."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=g)

    for layer in range(view.n_layers):
        at = f"blocks.{layer}"
        yield Write(f"{at}.attn.hook_z", (position, layer), random(view.d_head))
        yield Write(f"{at}.attn.hook_z", (position, 1, 2), random())
        yield Write(f"{at}.attn.hook_q", (position, 1), random(view.d_head))
        yield Write(f"{at}.mlp.hook_post", (position, 3), random())
        yield Write(f"{at}.hook_attn_out", (position,), random(view.d_model), add=True)
        for hook in ("resid_pre", "mlp_out", "resid_post"):
            yield Write(f"{at}.hook_{hook}", (position,), random(view.d_model))


def largest_error(model, replay, runs):
    errors = []
    for i, logits in replay.run(runs):
        errors.append(float((logits - by_hand(model, runs[i], IDS)).abs().max()))
    assert len(errors) == len(runs)
    return max(errors)


@pytest.mark.parametrize("name", sorted({*MAKERS, *BRIDGED}))
def test_every_way_gives_the_logits_of_the_whole_model(name):
    if name in WITHOUT_PAST:
        warnings.simplefilter("ignore", PerformanceWarning)  # pytest puts the filters back
    model = opened(name)
    run = kept(model)
    single = [[write] for write in writes(run.view, N - 1)]
    runs = single[::2] + [[write] for write in writes(run.view, 3)][1::4]
    runs += [[], [*writes(run.view, 2), *writes(run.view, 5)]]
    twins = [by_hand(model, changes, IDS) for changes in runs]
    for way, some in (("rows", runs), ("blocks", runs[-4:]), ("model", runs[-2:])):
        replay = Replay(run, way)
        done = []
        for i, logits in replay.run(some):
            # Measured: 3e-6 at logits of up to 100.
            torch.testing.assert_close(logits, twins[i - len(some)], atol=2e-5, rtol=0)
            done.append(i)
        assert sorted(done) == list(range(len(some)))
        assert replay.way == ("blocks" if way == "rows" and name in WITHOUT_PAST else way)


class OddlyNamedAttention(torch.nn.Module):
    """Causal attention with one head whose arguments have names that no release uses."""

    def __init__(self, forgets):
        super().__init__()
        self.mix = torch.nn.Linear(16, 48)
        self.forgets = forgets

    def forward(self, stuff, veil=None, tilt=None, bygone=None):
        q, k, v = (part[:, None] for part in self.mix(stuff).chunk(3, dim=-1))
        q, k = q + tilt[0][:, None], k + tilt[1][:, None]
        if bygone is not None and not self.forgets:
            k, v = bygone.update(k, v, 0)
        scores = q @ k.transpose(-1, -2) / 4 + veil
        return (scores.softmax(-1) @ v)[:, 0]


class OddlyNamedBlock(torch.nn.Module):
    """A block that hands a cache on to its attention, or does not."""

    def __init__(self, hands_on, forgets):
        super().__init__()
        self.attn = OddlyNamedAttention(forgets)
        self.hands_on = hands_on

    def forward(self, stuff, veil, slope, tilt, bygone=None):
        past = {"bygone": bygone} if self.hands_on else {}
        # A slope a key, as ALiBi has it.
        return (stuff + self.attn(stuff, veil=veil + slope[:, None], tilt=tilt, **past),)


class OddlyNamedModel(torch.nn.Module):
    """Two such blocks behind an embedding."""

    def __init__(self, hands_on=True, forgets=False):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 16)
        self.blocks = torch.nn.ModuleList(OddlyNamedBlock(hands_on, forgets) for _ in range(2))
        self.places = torch.nn.Embedding(12, 16)

    def forward(self, tokens):
        n = tokens.shape[1]
        x = self.embed(tokens)
        veil = torch.full((n, n), -torch.inf).triu(1)[None, None].expand(len(tokens), 1, n, n)
        slope = torch.linspace(0, 3, n)[None, None].expand(len(tokens), 1, n)
        tilt = self.places(torch.arange(n))[None], self.places(torch.arange(n) + 1)[None]
        for block in self.blocks:
            x = block(x, veil, slope=slope, tilt=tilt)[0]
        return x


def odd_view(model):
    """As much of a view as `BlockCalls` asks for."""
    view = object.__new__(ModelView)
    parts = (BlockParts(), BlockParts())
    vars(view).update(model=model, n_layers=2, n_ctx=11, d_model=16, name="odd", parts=parts)
    return view


@pytest.mark.parametrize("hands_on", [True, False])
def test_a_block_whose_arguments_have_names_that_nobody_has_seen_runs_by_rows(hands_on):
    torch.manual_seed(0)
    model = OddlyNamedModel(hands_on=hands_on)
    tokens = torch.tensor([[1, 5, 2, 8, 3, 9, 4]])
    calls = BlockCalls(odd_view(model), tokens)
    with torch.no_grad(), calls.noted():
        whole = model(tokens)
    with torch.no_grad():
        pasts = [calls.keys_and_values(layer) for layer in (0, 1)]
        for first in range(1, 7):
            x = calls.hidden(0)[:, first:].expand(3, -1, -1)
            for layer in (0, 1):
                x = calls(layer, x, first, Past(*pasts[layer], first))
            torch.testing.assert_close(x, whole[:, first:].expand(3, -1, -1), atol=1e-5, rtol=0)


def test_a_block_that_takes_no_cache_says_what_was_tried():
    torch.manual_seed(0)
    model = OddlyNamedModel(forgets=True)
    tokens = torch.tensor([[1, 5, 2, 8]])
    calls = BlockCalls(odd_view(model), tokens)
    with torch.no_grad(), calls.noted():
        model(tokens)
    with pytest.raises(
        ModelError, match=r"blocks\.0 of odd .*arguments tried: bygone, attn bygone, attn past_key"
    ):
        calls.keys_and_values(0)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 15), st.integers(0, N - 1)), max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_any_changes_at_any_positions_side_by_side(chosen):
    model = made("llama")
    run = kept(model)
    pool = {at: list(writes(run.view, at, seed=at)) for at in range(N)}
    runs = [[pool[at][i] for i, at in one] for one in chosen]
    assert largest_error(model, Replay(run), runs) < 2e-5


def test_blocks_before_the_change_and_rows_before_it_are_not_run_again():
    model = made("llama")
    run = kept(model)
    replay = Replay(run)
    list(replay.run([[Write("blocks.1.attn.hook_z", (N - 2, 0), torch.zeros(4))]]))
    seen = []
    for layer in (0, 1):
        name = f"blocks.{layer}.hook_resid_pre"
        model.add_hook(name, lambda t, hook, layer=layer: seen.append((layer, tuple(t.shape))))
    try:
        heads = [[Write("blocks.1.attn.hook_z", (N - 2, h), torch.zeros(4))] for h in range(4)]
        list(replay.run(heads))
    finally:
        model.reset_hooks()
    # Four changed runs, two unchanged ones, two rows.
    assert seen == [(1, (6, 2, 16))]


def test_the_unchanged_run_comes_back_and_the_clean_logits_stay():
    run = kept(made("gpt2"))
    before = run.logits.clone()
    z = Write("blocks.0.attn.hook_z", (N - 1, 0), torch.full((4,), 5.0))
    results = {i: logits.clone() for i, logits in Replay(run).run([[z], []])}
    torch.testing.assert_close(results[1], before, atol=1e-5, rtol=0)
    assert not torch.allclose(results[0], before, atol=1e-2)
    assert torch.equal(run.logits, before)


@pytest.mark.parametrize(
    ("position", "what"),
    [(3, "fails with one row"), (0, "would change another row than in the whole run")],
)
def test_a_callers_hook_that_counts_positions_is_noticed(position, what):
    model = tiny.llama()

    def steer(tensor, hook):
        tensor = tensor.clone()
        tensor[:, position] += 1.0
        return tensor

    model.add_hook("blocks.1.hook_attn_out", steer)
    try:
        run = kept(model)
        runs = [[Write("blocks.0.attn.hook_z", (N - 1, h), torch.zeros(4))] for h in range(4)]
        replay = Replay(run)
        with pytest.warns(PerformanceWarning, match="slow way 'blocks': all 7 positions") as said:
            assert largest_error(model, replay, runs) < 2e-5
        assert replay.way == "blocks", what
        assert len(said) == 1
        assert Path(visit_tl.__file__).parent not in Path(said[0].filename).parents
        # It is said once a model; another warning would be an error here.
        assert largest_error(model, Replay(run), runs) < 2e-5
        assert replay.reason in str(said[0].message)
    finally:
        model.reset_hooks()


def test_a_callers_hook_that_depends_on_the_batch_leaves_only_the_whole_model():
    model = tiny.gpt2()

    def drift(tensor, hook):
        return tensor * (1.5 if tensor.shape[0] > 1 else 1.0)

    model.add_hook("blocks.0.hook_attn_out", drift)
    try:
        replay = Replay(kept(model))
        run = [Write("blocks.0.attn.hook_z", (N - 1, 0), torch.zeros(4))]
        with pytest.warns(PerformanceWarning) as said:
            assert largest_error(model, replay, [run]) == 0
        assert replay.way == "model"
        ways = [re.search(r"slow way '(.*?)'", str(one.message))[1] for one in said]
        assert ways == ["blocks", "model"]
    finally:
        model.reset_hooks()


def test_batches_of_every_size_give_the_same(monkeypatch):
    from visit_tl.causal.patching import batched_runs as room

    run = kept(made("llama"))
    runs = [[write] for at in (N - 1, N - 3) for write in writes(run.view, at)]
    whole = {i: logits.clone() for i, logits in Replay(run).run(runs)}
    for rows in (1, 3, 7):
        monkeypatch.setattr(room, "_ROWS", rows)
        for i, logits in Replay(run).run(runs):
            torch.testing.assert_close(logits, whole[i], atol=2e-5, rtol=0)


def test_kept_activations_are_those_of_a_cache():
    model = made("llama")
    view = ModelView(model)
    z, v, pattern = (f"blocks.1.attn.hook_{name}" for name in ("z", "v", "pattern"))
    run = KeptRun(
        view, view.tokens.encode(IDS, None), {z: "row", v: "all", pattern: "query"}, (2, 5)
    )
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    assert torch.equal(run.row(z, 5), cache[z][0, 5])
    assert torch.equal(run.kept[v], cache[v][0])
    assert torch.equal(run.row(pattern, 2), cache[pattern][0, :, 2])


def test_gradients_are_those_of_small_steps():
    model = made("gpt2")
    run = kept(model)

    def metric(logits):
        return logits[0, -1, 3] - logits[0, -1, 4]

    for parameter in model.parameters():
        assert parameter.grad is None
    names = ["blocks.0.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.0.hook_resid_pre"]
    gradients = run.gradients(names, metric)
    for name, place in zip(names, [(N - 1, 2, 1), (N - 1, 7), (3, 5)], strict=True):
        up, down = (
            metric(by_hand(model, [Write(name, place, torch.tensor(step), add=True)], IDS))
            for step in (1e-2, -1e-2)
        )
        slope = float(up - down) / 2e-2
        assert float(gradients[name][place]) == pytest.approx(slope, rel=2e-2, abs=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_there_for_frozen_parameters_and_under_no_grad():
    model = tiny.gpt2(seed=3)
    model.requires_grad_(False)
    with torch.no_grad():
        found = kept(model).gradients(["blocks.0.hook_mlp_out"], lambda logits: logits[0, -1, 0])
    assert float(found["blocks.0.hook_mlp_out"].abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_metric_without_a_gradient_is_refused():
    run = kept(made("gpt2"))
    with pytest.raises(InputError, match="the metric has no gradient"):
        run.gradients(["blocks.0.hook_mlp_out"], lambda logits: logits.detach()[0, 0, 0])


def test_a_hook_that_does_not_fire_is_named(monkeypatch):
    model = made("llama")
    view = ModelView(model)
    prompt = view.tokens.encode(IDS, None)
    silent = "blocks.0.hook_mlp_out"
    own = model.run_with_hooks
    monkeypatch.setattr(model, "run_with_hooks", lambda tokens, fwd_hooks: own(tokens))
    with pytest.raises(ModelError, match=rf"the hook {silent} of .* did not fire"):
        KeptRun(view, prompt, {silent: "row"}, (0,))
    write = Write(silent, (N - 1,), torch.zeros(16))
    with pytest.raises(ModelError, match="did not fire, so nothing was patched there"):
        KeptRun(view, prompt).whole([write])


def test_a_change_of_the_wrong_shape_fails_loudly():
    run = kept(tiny.llama())
    with pytest.warns(PerformanceWarning), pytest.raises(RuntimeError):
        list(Replay(run).run([[Write("blocks.0.attn.hook_z", (N - 1, 0), torch.zeros(5))]]))
