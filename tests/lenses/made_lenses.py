"""Random lenses of small models, and what a node reads as through one, one product at a time."""

from __future__ import annotations

import torch

from visit_tl.lenses import Lens


def matrices(d_model, n_blocks, seed=0, first=0):
    """A matrix for each block from `first` on, not far from the identity."""
    stream = torch.Generator().manual_seed(seed)
    return {
        block: torch.eye(d_model) + torch.randn(d_model, d_model, generator=stream) / d_model**0.5
        for block in range(first, n_blocks)
    }


def affine(d_model, n_blocks, seed=1):
    """A lens with a bias for each block, the embedding included."""
    stream = torch.Generator().manual_seed(seed)
    maps = matrices(d_model, n_blocks, seed, first=-1)
    return Lens("affine", maps, {b: torch.randn(d_model, generator=stream) for b in maps})


def distribution(view, vector, matrix=None, bias=None):
    """`softmax(W_U norm(M v + b) + b_U)` in float64, by the formula alone."""
    x = vector.double()
    if matrix is not None:
        x = torch.stack([(row * x).sum() for row in matrix.double()])
    if bias is not None:
        x = x + bias.double()
    logits = view.final_norm(x) @ view.W_U.double()
    logits = logits if view.b_U is None else logits + view.b_U.double()
    if view.output_transform is not None:
        logits = view.output_transform(logits)
    return logits.softmax(-1)


def assert_reads(node, probs, target):
    """Tokens, rank, probability and entropy of a node are those of a distribution."""
    assert [t.id for t in node.top] == probs.argsort(descending=True, stable=True)[:5].tolist()
    for read in (*node.top, *node.bottom):
        assert abs(read.prob - float(probs[read.id])) < 1e-5
    assert node.rank == int((probs > probs[target]).sum())
    assert abs(node.prob - float(probs[target])) < 1e-5
    assert abs(node.entropy + float((probs * probs.log()).sum())) < 1e-4
