"""The numbers of the paper's studies by loops: one vector, one head, one position at a time.

Only TransformerLens's cache and modules are used, and sets of Python; nothing of visit_tl.
"""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import numpy as np
import torch

_READ = WeakKeyDictionary()


class Loops:
    """One prompt of one model.

    Args:
        model: The model.
        ids: The tokens.
        target: The given target; None is none.
        index: The prompt's index.
    """

    def __init__(self, model, ids, target=None, index=0):
        self.model, self.ids, self.index = model, list(ids), index
        with torch.no_grad():
            logits, self.cache = model.run_with_cache(torch.tensor([self.ids]))
        self.predicted = int(logits[0, -1].argmax())
        self.correct = target is not None and self.predicted == target
        self.target = self.predicted if target is None else target
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        self.d_model, self.last = int(model.cfg.d_model), len(self.ids) - 1
        self.units = [(layer, h) for layer in range(self.n_layers) for h in range(self.n_heads)]
        # Tests of other studies and options read the same vectors again.
        self._read = _READ.setdefault(model, {})

    def at(self, layer, name):
        """An activation at the last token."""
        return self.cache[f"blocks.{layer}.{name}"][0, -1]

    def has(self, name):
        return f"blocks.0.{name}" in self.cache

    # --- the lens ------------------------------------------------------------------------------

    def probs(self, vector):
        """softmax(ln_f(x) W_U + b_U), with the model's softcap if it has one."""
        key = tuple(vector.tolist())
        if key not in self._read:
            with torch.no_grad():
                x = vector[None, None]
                norm = getattr(self.model, "ln_final", None)
                logits = self.model.unembed(x if norm is None else norm(x))[0, 0].double()
            cap = float(getattr(self.model.cfg, "output_logits_soft_cap", -1) or -1)
            logits = cap * torch.tanh(logits / cap) if cap > 0 else logits
            self._read[key] = logits.softmax(-1).tolist()
        return self._read[key]

    def top(self, vector, k):
        probs = self.probs(vector)
        key = tuple(vector.tolist()), k
        if key not in self._read:
            self._read[key] = set(sorted(range(len(probs)), key=lambda t: (-probs[t], t))[:k])
        return self._read[key]

    def overlap(self, one, other, k):
        k = min(k, len(self.probs(one)))
        return len(self.top(one, k) & self.top(other, k)) / k

    def rank(self, vector, token):
        probs = self.probs(vector)
        return sum(p > probs[token] for p in probs)

    # --- parts ---------------------------------------------------------------------------------

    def shared(self, name, layer, h):
        """A key's or value's head that query head h uses, `[pos, d_head]`."""
        rows = self.cache[f"blocks.{layer}.attn.{name}"][0]
        return rows[:, h // (self.n_heads // rows.shape[1])]

    def weight(self, name, layer, h):
        heads = getattr(self.model.blocks[layer].attn, name).detach()
        return heads[h // (self.n_heads // len(heads))]

    def in_stream(self, layer, h, vector):
        """`v W_O`, through the norm after the attention as a factor of each entry, where it is."""
        out = vector @ self.weight("W_O", layer, h)
        if getattr(self.model.blocks[layer], "ln1_post", None) is None:
            return out
        z = self.at(layer, "attn.hook_z")
        whole = sum(z[i] @ self.weight("W_O", layer, i) for i in range(self.n_heads))
        return out * (self.at(layer, "hook_attn_out") / whole)

    def head(self, layer, h):
        return self.in_stream(layer, h, self.at(layer, "attn.hook_z")[h])

    def memory(self, layer, h, j):
        return self.in_stream(layer, h, self.shared("hook_v", layer, h)[j])

    def attention(self, layer, h):
        return self.cache[f"blocks.{layer}.attn.hook_pattern"][0, h, -1]

    def padded(self, h, vector):
        """The vector at the head's entries of d_model, 0 elsewhere."""
        out = [0.0] * self.d_model
        for i, entry in enumerate(vector.tolist()):
            out[h * len(vector) + i] = entry
        return torch.tensor(out)

    def states(self, layer, vector, k):
        return {
            "attn": self.overlap(vector, self.at(layer, "hook_attn_out"), k),
            "block": self.overlap(vector, self.at(layer, "hook_resid_post"), k),
            "final": self.overlap(vector, self.at(self.n_layers - 1, "hook_resid_post"), k),
        }

    # --- studies -------------------------------------------------------------------------------

    def heads_naive(self, k):
        z = [self.at(layer, "attn.hook_z") for layer in range(self.n_layers)]
        return [
            {"layer": i, "head": h, **self.states(i, self.padded(h, z[i][h]), k)}
            for i, h in self.units
        ]

    def heads_ov(self, k):
        return [
            {"layer": i, "head": h, **self.states(i, self.head(i, h), k)} for i, h in self.units
        ]

    def top_heads(self, k, top=3):
        rows = []
        for layer in range(self.n_layers):
            outs = [self.head(layer, h) for h in range(self.n_heads)]
            order = sorted(range(self.n_heads), key=lambda h: (-float(outs[h].norm()), h))
            for rank, h in enumerate(order[:top]):
                row = {"layer": layer, "rank": rank, "head": h, "norm": float(outs[h].norm())}
                rows.append(row | self.states(layer, outs[h], k))
        return rows

    def correct_vs_random(self, k, top=3, seed=0, bos=0):
        n_vocab = int(self.model.cfg.d_vocab)
        drawn = np.random.RandomState([seed, self.index]).randint(0, n_vocab, len(self.ids))
        ids = drawn.tolist()
        if self.ids[0] == bos:
            ids[0] = bos
        own = [row | {"random": False} for row in self.top_heads(k, top)]
        return own + [row | {"random": True} for row in Loops(self.model, ids).top_heads(k, top)]

    def target_by_head(self, k=None):
        return [
            {
                "layer": i,
                "head": h,
                "rank": self.rank(self.head(i, h), self.target),
                "prob": self.probs(self.head(i, h))[self.target],
            }
            for i, h in self.units
        ]

    def memory_values_top3(self, k, top=3, rank_by="attention"):
        rows = []
        for layer, h in self.units:
            values = [self.memory(layer, h, j) for j in range(len(self.ids))]
            attention = self.attention(layer, h).tolist()
            norms = [float(v.norm()) for v in values]
            by = attention if rank_by == "attention" else norms
            order = sorted(range(len(values)), key=lambda j: (-by[j], j))
            for rank, j in enumerate(order[:top]):
                row = {"layer": layer, "head": h, "rank": rank, "position": j}
                row["head_overlap"] = self.overlap(values[j], self.head(layer, h), k)
                row["attention"] = attention[j]
                rows.append(row)
        return rows

    memory_values_by_head = memory_values_top3

    def memory_values_all(self, k, top=14, rank_by="attention"):
        return self.memory_values_top3(k, top, rank_by)

    def input_token_prob(self, k=None):
        return [
            {
                "layer": i,
                "head": h,
                "position": j,
                "prob": self.probs(self.memory(i, h, j))[self.ids[j]],
            }
            for i, h in self.units
            for j in range(len(self.ids))
        ]

    def final_prob_by_layer(self, k=None):
        states = [self.at(0, "hook_resid_pre")]
        states += [self.at(layer, "hook_resid_post") for layer in range(self.n_layers)]
        return [
            {
                "layer": i,
                "prob": self.probs(state)[self.predicted],
                "rank": self.rank(state, self.predicted),
                "correct": self.correct,
            }
            for i, state in enumerate(states)
        ]

    def attn_vs_residual(self, k):
        rows = []
        for layer in range(self.n_layers):
            attn = self.at(layer, "hook_attn_out")
            row = {"layer": layer, "resid_mid": math.nan}
            row |= {"previous_resid_pre": math.nan, "previous_attn_out": math.nan}
            row["resid_pre"] = self.overlap(attn, self.at(layer, "hook_resid_pre"), k)
            row["resid_post"] = self.overlap(attn, self.at(layer, "hook_resid_post"), k)
            if self.has("hook_resid_mid"):
                row["resid_mid"] = self.overlap(attn, self.at(layer, "hook_resid_mid"), k)
            if layer > 0:
                state, other = (self.at(layer - 1, n) for n in ("hook_resid_pre", "hook_attn_out"))
                row["previous_resid_pre"] = self.overlap(attn, state, k)
                row["previous_attn_out"] = self.overlap(attn, other, k)
            rows.append(row)
        return rows

    # --- queries and keys ----------------------------------------------------------------------

    def normed(self, name, layer, vector):
        """A query or key after its norm, where there is one over each head."""
        norm = getattr(self.model.blocks[layer].attn, name, None)
        if norm is None:
            return vector
        with torch.no_grad():
            return norm(vector[None, None, None])[0, 0, 0]

    def query_key(self, layer, h, j, rotary, turn):
        """The last query and the key of j, and both through the QK circuit.

        Args:
            layer: The block.
            h: The query head.
            j: The key position.
            rotary: before or after.
            turn: Rotates a vector by a position.
        """
        raw_q = self.at(layer, "attn.hook_q")[h]
        raw_k = self.shared("hook_k", layer, h)
        q, k = self.normed("q_norm", layer, raw_q), self.normed("k_norm", layer, raw_k[j])
        # The norms as factors of each entry, at the last token.
        q_gain = q / raw_q
        k_gain = self.normed("k_norm", layer, raw_k[self.last]) / raw_k[self.last]
        framed = k
        q_read = (q * k_gain) @ self.weight("W_K", layer, h).T
        if rotary == "after":
            framed = turn(k, j - self.last)
            q, k = turn(q, self.last), turn(k, j)
        return q, k, q_read, (framed * q_gain) @ self.weight("W_Q", layer, h).T

    def k_vs_v(self, k, rotary="before", naive=True, turn=None):
        rows = []
        for layer, h in self.units:
            for j in range(len(self.ids)):
                _, key, _, read = self.query_key(layer, h, j, rotary, turn)
                value, memory = self.shared("hook_v", layer, h)[j], self.memory(layer, h, j)
                row = {"layer": layer, "head": h, "position": j}
                row |= {"naive": math.nan, "naive_key": math.nan}
                row["qk"] = self.overlap(read, memory, k)
                if naive:
                    padded = self.padded(h, key)
                    row["naive"] = self.overlap(padded, self.padded(h, value), k)
                    row["naive_key"] = self.overlap(padded, memory, k)
                rows.append(row)
        return rows

    def q_vs_k(self, k, rotary="before", naive=True, turn=None):
        rows = []
        for layer, h in self.units:
            for j in range(len(self.ids)):
                query, key, q_read, k_read = self.query_key(layer, h, j, rotary, turn)
                row = {"layer": layer, "head": h, "position": j, "naive": math.nan}
                row["qk"] = self.overlap(q_read, k_read, k)
                if naive:
                    row["naive"] = self.overlap(self.padded(h, query), self.padded(h, key), k)
                rows.append(row)
        return rows


def turned(x, position, *, rotary, adjacent):
    """A vector rotated by a position, pair by pair, base 10000."""
    out = x.tolist()
    for i in range(rotary // 2):
        a, b = (2 * i, 2 * i + 1) if adjacent else (i, i + rotary // 2)
        angle = position * 10000 ** (-2 * i / rotary)
        first, second = float(x[a]), float(x[b])
        out[a] = first * math.cos(angle) - second * math.sin(angle)
        out[b] = second * math.cos(angle) + first * math.sin(angle)
    return torch.tensor(out)
