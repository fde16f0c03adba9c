"""Runs of a circuit of edges: what is outside of it carries another prompt's signal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.patching.edge_attribution import Edge
from lenskit.patching.edge_scores import Exchange
from lenskit.patching.engine import Ends
from lenskit.patching.nodes import Node, NodeLike
from lenskit.patching.wiring import Input, InputLike, Wiring, by_head

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.patching.metrics import Metric

EdgeLike = tuple[NodeLike, InputLike] | Edge


def patched_edges(model: Model, base: Tensor, source: Tensor, keep_edges: Iterable[EdgeLike], metric: Metric) -> float:
    """The metric of `base` when only these edges carry its own signal, and all others that of `source`.

    With all edges it is the metric of the base prompt, with none that of the source. `base` and `source` are token ids
    (1, pos); edges are pairs such as `("3.5", "5.2.q")`, or those of `Edges.top`. The metric must be bound, if it is
    `kl` or a function. Raises as `run_edges`.

    >>> patched_edges(model, clean, corrupt, scores.top(200), metric)  # doctest: +SKIP
    """
    read = metric.read(base.shape[1])
    last = run_edges(model, base, source, keep_edges)
    return float(metric.of(model, Ends(last[:, list(read)], None))[0])


def run_edges(model: Model, base: Tensor, source: Tensor, keep_edges: Iterable[EdgeLike]) -> Tensor:
    """The last residual (1, pos, d_model) of a run in which only these edges carry the base prompt's own signal.

    Layer by layer, each receiver reads what the source wrote, plus what its senders within the circuit write more now:
    their outputs in this run, not those they have in the base prompt. `model.unembed` makes logits of it.

    Raises `KeyError` for an edge that this model does not have, and `SiteUnavailable` where `edges` does.

    Source: Hanna et al., "Have Faith in Faithfulness" (2024), section 2.
    """
    exchange = Exchange(model, source, base)  # the source is what runs where nothing is kept
    kept = _kept(exchange.wiring, keep_edges).to(exchange.more)
    now = torch.zeros_like(exchange.more)  # (sender, pos, d_model): what each writes more than in the source
    now[0] = exchange.more[0]
    for layer in range(model.n_layers):
        if attention := exchange.wiring.of_layer(layer, "q", "k", "v", "attn"):
            _attend(exchange, layer, _read(exchange, attention, kept, now, "resid_pre"), now)
        for node in exchange.wiring.of_layer(layer, "mlp"):
            stream = "resid_mid" if layer in exchange.wiring.serial else "resid_pre"
            out = exchange.receivers.mlp(layer, _read(exchange, [node], kept, now, stream))
            now[exchange.wiring.place[Node("mlp", layer)]] = (out - exchange.base["mlp_out", layer])[0].to(now.dtype)
    last = exchange.base[exchange.last]
    return last + torch.einsum("s,spd->pd", kept[:, -1], now)[None].to(last.dtype)


def _read(exchange: Exchange, nodes: list[Input], kept: Tensor, now: Tensor, stream: str) -> Tensor:
    """(receiver, pos, d_model): what each of these receivers of one layer reads."""
    columns = [exchange.wiring.receivers.index(node) for node in nodes]
    carried = torch.einsum("sr,spd->rpd", kept[:, columns], now)
    return exchange.base[stream, nodes[0].layer] + carried


def _attend(exchange: Exchange, layer: int, inputs: Tensor, now: Tensor) -> None:
    """Run an attention each of whose heads reads its own q, k and v, and note what it writes."""
    by_heads = Node("head", layer, 0) in exchange.wiring.place
    site = "z" if by_heads else "attn_out"
    if exchange.wiring.of_layer(layer, "attn"):
        new = exchange.receivers.through(layer, inputs, [site])[site]
    else:
        own = _of_each(exchange.receivers.inside(layer, inputs))
        new = exchange.receivers.attended(layer, own, [site])[site, layer]
    more = (new - exchange.base[site, layer]).to(now.dtype)
    first = exchange.wiring.place[Node("head", layer, 0) if by_heads else Node("attn", layer)]
    written = by_head(exchange.model, layer, more) if by_heads else more
    now[first : first + len(written)] = written.to(now.dtype)


def _of_each(inside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of q, k and v (receiver, pos, head, d_head) each head's own, from the copy on which it read its own input."""
    own, row = dict[str, Tensor](), 0
    for name, made in inside.items():
        heads = made.shape[2]
        own[name] = torch.stack([made[row + head, :, head] for head in range(heads)], 1)[None]
        row += heads
    return own


def _kept(wiring: Wiring, edges: Iterable[EdgeLike]) -> Tensor:
    """(sender, receiver): 1 for an edge of the circuit. Raises `KeyError` for one that does not exist."""
    kept = torch.zeros(len(wiring.senders), len(wiring.receivers))
    columns = {receiver: n for n, receiver in enumerate(wiring.receivers)}
    for edge in edges:
        node, end = Node.parse(edge[0]), Input.parse(edge[1])
        row, column = wiring.place.get(node), columns.get(end)
        if row is None or column is None:
            here = wiring.senders if row is None else wiring.receivers
            missing = node if row is None else end
            raise KeyError(
                f"this model has no edge {node} -> {end}: {missing} is none of {here[0]}, {here[1]}, ... {here[-1]}."
            )
        if row >= wiring.before(end):
            raise KeyError(f"this model has no edge {node} -> {end}: {end} is read before {node} writes.")
        kept[row, column] = 1.0
    return kept
