"""The replacement model written out by hand, in float64 and without gradients: an edge is what goes with its source."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.circuits.graph import Graph
from lenskit.circuits.nodes import Node
from tests.models import by_hand


class Held(nn.Module):
    """A norm that divides by what it did in its first call."""

    def __init__(self, norm: Any, *, centres: bool, offset: float) -> None:
        super().__init__()
        self.norm: Any = norm
        self.centres, self.offset = centres, offset
        self.scale: Any = None

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centres else x
        if self.scale is None:
            eps = next(getattr(self.norm, name) for name in ("eps", "variance_epsilon") if hasattr(self.norm, name))
            self.scale = (x.square().mean(-1, keepdim=True) + eps).sqrt()
        out = x / self.scale * (self.norm.weight + self.offset)
        bias = getattr(self.norm, "bias", None)
        return out if bias is None else out + bias


class ByHand:
    """A prompt in the replacement model of a tiny LM: `without` gives what each MLP reads when something is taken away.

    transcoders: by layer; of the other layers the features are neurons.
    """

    def __init__(self, hf: Any, ids: Tensor, transcoders: dict[int, lk.Transcoder]) -> None:
        self.ids, self.transcoders = ids, {layer: copy.deepcopy(t).double() for layer, t in transcoders.items()}
        self.hf: Any = copy.deepcopy(hf).double()
        centres, offset = hf.config.model_type in ("gpt2", "gpt_neox"), float(hf.config.model_type == "gemma2")
        for parent in list(self.hf.modules()):
            for name, child in list(parent.named_children()):
                if "norm" in type(child).__name__.lower():
                    setattr(parent, name, Held(child, centres=centres, offset=offset))
        self.seen: dict[tuple[str, int | None], Tensor] = {}
        with torch.no_grad():
            by_hand.by_hand(self.hf, ids, self._note)
        self.reads = {site: value for site, value in self.seen.items() if site[0] in ("mlp_in", "final_norm")}

    def _note(self, site: str, layer: int | None, x: Tensor) -> Tensor:
        self.seen[site, layer] = x
        return x

    @torch.no_grad()
    def without(self, node: Node) -> dict[tuple[str, int | None], Tensor]:
        """What every MLP and the unembedding read when one node gives nothing."""
        found: dict[tuple[str, int | None], Tensor] = {}

        def touch(site: str, layer: int | None, x: Tensor) -> Tensor:
            if site == "pattern":
                return self.seen[site, layer]
            if site in ("mlp_in", "final_norm"):
                found[site, layer] = x
            if site == "resid_pre" and layer == 0 and node.kind == "embed":
                gone = x.clone()
                own = self.seen[site, layer][0, node.pos]
                learned = self.seen.get(("pos_embed", None))
                gone[0, node.pos] -= own if learned is None else own - learned[0, node.pos]
                return gone
            if site == "mlp_post" and layer not in self.transcoders:
                return self._less(self.seen[site, layer], node, layer, lambda x: x)
            if site == "mlp_out" and layer in self.transcoders:
                return self._written(layer, found["mlp_in", layer], node)
            return x

        by_hand.by_hand(self.hf, self.ids, touch)
        return found

    def _less(self, value: Tensor, node: Node, layer: int | None, of: Callable[[Tensor], Tensor]) -> Tensor:
        if node.kind != "feature" or node.layer != layer:
            return value
        gone = value.clone()
        gone[0, node.pos, node.feature] = 0.0
        return gone

    def _written(self, layer: int, read: Tensor, node: Node) -> Tensor:
        """What stands at mlp_out: its own value less what one node gives, and the skip of what is read."""
        each, was = self.transcoders[layer], self.seen["mlp_in", layer]
        out = self.seen["mlp_out", layer].clone()
        if each.W_skip is not None:
            out = out + (read - was) @ each.W_skip[0].T
        if node.layer == layer and node.kind == "feature":
            activation = each.encode(was).at(0, node.pos)
            value = dict(zip(activation[0].tolist(), activation[1].tolist(), strict=True))[node.feature]
            out[0, node.pos] -= value * each.W_dec[0, node.feature]
        if node.layer == layer and node.kind == "error":
            out[0, node.pos] -= (self.seen["mlp_out", layer] - each(was))[0, node.pos]
        return out

    @torch.no_grad()
    def value(self, model: lk.Model, graph: Graph, node: Node, reads: dict[tuple[str, int | None], Tensor]) -> float:
        """What a target has of what is read, but for constants."""
        if node.kind == "logit":
            token = graph.provenance["circuit"]["ids"][node.feature][0]
            logits = self.hf.get_output_embeddings()(reads["final_norm", None][0, node.pos])
            logits = logits / getattr(self.hf.config, "logits_scaling", 1.0)
            return float(logits[token] - logits.mean())
        x, was = reads["mlp_in", node.layer][0, node.pos], self.reads["mlp_in", node.layer][0, node.pos]
        if node.layer in self.transcoders:
            return float(self.transcoders[node.layer].W_enc[node.feature] @ x)
        block = model.anatomy.blocks[node.layer]
        own = next(b for b, o in zip(self._blocks(), model.anatomy.blocks, strict=True) if o is block)
        if self.hf.config.model_type in ("gpt2", "gpt_neox"):
            up = own.mlp.c_fc if hasattr(own.mlp, "c_fc") else own.mlp.dense_h_to_4h
            return float(up(x)[node.feature])
        mlp = own.mlp
        gate, up = (float(rows(was)[node.feature]) for rows in (mlp.gate_proj, mlp.up_proj))
        slope = float(mlp.act_fn(torch.tensor(gate, dtype=torch.float64))) / gate
        gate_now, up_now = (float(rows(x)[node.feature]) for rows in (mlp.gate_proj, mlp.up_proj))
        return 0.5 * slope * (gate_now * up + gate * up_now)

    def _blocks(self) -> list[Any]:
        inner = getattr(self.hf, "transformer", None) or getattr(self.hf, "gpt_neox", None) or self.hf.model
        return list(getattr(inner, "h", None) or inner.layers)
