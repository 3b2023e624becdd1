"""Patches of experts: what an expert, or a neuron inside one, adds is replaced where it is summed.

No hook holds what is inside an expert, so the change of its contribution is added to the output of
the mixture. The router, its weights and all other experts stay as they are. An expert that was not
chosen adds nothing; where another run chose it, its contribution there is put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.model.hooks import hook_names
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.model.view import ModelView


def require_expert(view: ModelView, node: NodeId) -> None:
    """Check that the expert of a node is in the model.

    Raises:
        InputError: its block is no mixture, or has no such expert or neuron.
    """
    layer, expert = node.layer or 0, node.expert or 0
    mixture = view.parts[layer].mixture if layer < view.n_layers else None
    if mixture is None:
        raise InputError(f"{node} is not in {view.name}: block {layer} has no experts")
    if not -mixture.n_shared <= expert < mixture.n_experts:
        raise InputError(
            f"{node} is not in {view.name}: block {layer} has {mixture.n_experts} experts and "
            f"{mixture.n_shared} shared ones"
        )
    width = mixture.d_mlp(expert)
    if node.neuron is not None and node.neuron >= width:
        raise InputError(
            f"{node} is not in {view.name}: its neuron is outside 0..{width - 1} of the expert"
        )


def add_expert_values(run: KeptRun, nodes: Iterable[NodeId]) -> None:
    """Add to what a run keeps, by node, what experts and their neurons add to their mixture.

    Args:
        run: A run that keeps the hooks that `replacements.needed` names.
        nodes: The nodes; those that are in no expert are passed over.
    """
    for node in dict.fromkeys(n.at(None) for n in nodes if n.expert is not None):
        if node.kind not in ("expert", "neuron") or node.layer is None:
            continue
        mixture = run.view.parts[node.layer].mixture
        assert mixture is not None  # `require_expert` was asked
        names = hook_names(run.view, node.layer)
        rows = []
        for position in run.positions:
            shown = run.row(names["router"], position) if "router" in names else None
            found = mixture.trace(run.row(names["mlp_in"], position), shown)
            at = found.of(node.expert or 0)
            if at is None:
                rows.append(torch.zeros(run.view.d_model, device=run.view.W_U.device))
            elif node.neuron is None:
                rows.append(found.outputs[at])
            else:
                rows.append(found.post[at][node.neuron] * found.W_out[at][node.neuron])
        run.kept[_key(node)] = torch.stack(rows)


def expert_writes(
    base: KeptRun, other: Mapping[str, Tensor] | None, node: NodeId, positions: Sequence[int]
) -> list[Write]:
    """The writes that replace what an expert or its neuron adds, at these positions.

    Args:
        base: The run to patch, with the values of `add_expert_values`.
        other: The values that take their place; None is zeros.
        node: The node.
        positions: Where it is patched.
    """
    own = base.kept[_key(node.at(None))]
    new = torch.zeros_like(own) if other is None else other[_key(node.at(None))]
    hook = f"blocks.{node.layer}.mlp.hook_out"
    rows = (base.positions.index(position) for position in positions)
    return [
        Write(hook, (position,), new[i] - own[i], add=True)
        for position, i in zip(positions, rows, strict=True)
    ]


def _key(node: NodeId) -> str:
    return f"expert value of {node}"
