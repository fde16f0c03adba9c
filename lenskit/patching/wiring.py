"""Wiring: which parts of a model write into the residual stream, and which read it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from lenskit.models.sites import Site, SiteUnavailable
from lenskit.patching.nodes import Node

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.run import Run

_HALF, _SINGLE = 5e-2, 2e-3  # relative: sums of a few dozen vectors of very different size agree to about this


class Input(NamedTuple):
    """What a part of the model reads by itself: the `q` of a head `9.6.q`, the `k` or `v` of a key-value head `9.2.k`,
    an MLP's input `5.mlp`, that of an attention as a whole `5.attn`, or the `logits`.

    >>> Input.parse("9.6.q")
    Input(kind='q', layer=9, head=6)
    >>> str(Input("mlp", 5)), str(Input("logits"))
    ('5.mlp', 'logits')
    """

    kind: Literal["q", "k", "v", "attn", "mlp", "logits"]
    layer: int = -1
    head: int = -1

    @classmethod
    def parse(cls, what: InputLike) -> Input:
        """Read it from its name. Raises `ValueError` for what is none."""
        if isinstance(what, Input):
            return what
        if what == "logits":
            return cls(what)
        if found := re.fullmatch(r"(\d+)\.(\d+)\.([qkv])", what):
            return cls(found[3], int(found[1]), int(found[2]))  # pyright: ignore[reportArgumentType] -- just matched
        if found := re.fullmatch(r"(\d+)\.(attn|mlp)", what):
            return cls(found[2], int(found[1]))  # pyright: ignore[reportArgumentType] -- just matched
        raise ValueError(
            f"{what!r} is no input. Inputs are those of a head '9.6.q' (of a key-value head '9.2.k', '9.2.v'), of an "
            "MLP '5.mlp', of an attention as a whole '5.attn', and 'logits'."
        )

    def __str__(self) -> str:
        if self.kind == "logits":
            return self.kind
        return f"{self.layer}.{self.kind}" if self.head < 0 else f"{self.layer}.{self.head}.{self.kind}"


InputLike = str | Input


@dataclass(frozen=True)
class Wiring:
    """The senders and receivers of a model, each in the order of the forward, so that a receiver reads the first few.

    Attributes:
        senders: `embed`, then of each layer its heads (or its attention as a whole) and its MLP.
        receivers: of each layer `q k v` of each head, `k` and `v` by key-value head (or its attention as a whole), and
            its MLP; then the logits.
        serial: the layers whose MLP reads what their own attention has written.
        why: why some attention is one sender or one receiver as a whole, in words; None where all is by head.
    """

    senders: tuple[Node, ...]
    receivers: tuple[Input, ...]
    serial: frozenset[int]
    why: str | None = None

    @classmethod
    def of(cls, model: Model, run: Run, reading_more: Collection[int]) -> Wiring:
        """The wiring of a model, as a run that kept `q k v z` shows its heads.

        reading_more: the layers whose attention reads its input by more than `q k v`.

        Raises `SiteUnavailable` where attention and MLP cannot be told apart.
        """
        senders, receivers, notes = [Node("embed")], list[Input](), dict[str, list[int]]()
        serial = frozenset(model.anatomy.layers_of("resid_mid"))
        for layer in range(model.n_layers):
            spots = model.anatomy.layers[layer].spots
            if "attn_out" not in spots and "mlp_out" not in spots:
                model.anatomy.spot(Site("attn_out", layer))  # raises with the reason
            if "attn_out" in spots:
                reason = no_head_senders(model, layer)
                if reason:
                    senders.append(Node("attn", layer))
                else:
                    senders += [Node("head", layer, head) for head in range(run["z", layer].shape[2])]
                by_head = {"q", "k", "v"} <= spots.keys()
                if by_head and layer not in reading_more:
                    for name in ("q", "k", "v"):
                        receivers += [Input(name, layer, head) for head in range(run[name, layer].shape[2])]
                else:
                    receivers.append(Input("attn", layer))
                    note = "it reads by more than its q, k and v" if by_head else "its q, k and v cannot be read"
                    notes.setdefault(f"is one receiver, since {note}", []).append(layer)
                if reason:
                    notes.setdefault(f"is one sender, since {reason}", []).append(layer)
            if "mlp_out" in spots:
                senders.append(Node("mlp", layer))
                receivers.append(Input("mlp", layer))
        why = "; ".join(f"attention {note} (layers {', '.join(map(str, where))})" for note, where in notes.items())
        return cls(tuple(senders), (*receivers, Input("logits")), serial, why or None)

    @cached_property
    def place(self) -> dict[Node, int]:
        """Where each sender stands among the senders."""
        return {sender: n for n, sender in enumerate(self.senders)}

    def before(self, receiver: Input) -> int:
        """How many senders a receiver reads: it is always the first so many."""
        return self._before[receiver]

    @cached_property
    def _before(self) -> dict[Input, int]:
        return {receiver: self._count(receiver) for receiver in self.receivers}

    def _count(self, receiver: Input) -> int:
        if receiver.kind == "logits":
            return len(self.senders)
        own = receiver.kind == "mlp" and receiver.layer in self.serial
        return sum(
            sender.layer < receiver.layer or (own and sender.layer == receiver.layer and sender.kind != "mlp")
            for sender in self.senders
        )

    def of_layer(self, layer: int, *kinds: str) -> list[Input]:
        """The receivers of these kinds in a layer."""
        return [node for node in self.receivers if node.layer == layer and node.kind in kinds]


def no_head_senders(model: Model, layer: int) -> str | None:
    """Why what a layer's attention writes is not the sum of what its heads write, or None where it is."""
    try:
        model.anatomy.spot(Site("z", layer))
        writer = model.weights.found.parts.writer("W_O", layer)
    except SiteUnavailable as error:
        return str(error).partition(": ")[2] or str(error)
    return None if writer.post_norm is None else f"a {type(writer.post_norm.module).__name__} stands behind it"


def sites_to_keep(model: Model, *names: str) -> list[Site]:
    """These sites in the layers in which they exist."""
    return [Site(name, layer) for name in names for layer in model.anatomy.layers_of(name)]


def written_more(model: Model, wiring: Wiring, source: Run, base: Run, layer: int | None = None) -> Tensor:
    """(sender, pos, d_model): what each sender writes in `source` more than in `base`; or those of one layer only."""
    parts = list[Tensor]()
    if layer is None:
        parts.append(_difference(source, base, Site("resid_pre", 0)))
    for each in range(model.n_layers) if layer is None else [layer]:
        parts += written_in(model, wiring, each, source, base)
    return torch.cat(parts)


def written_in(model: Model, wiring: Wiring, layer: int, source: Run, base: Run) -> list[Tensor]:
    """(sender, pos, d_model) of the attention, and of the MLP, of one layer, in so far as there are such."""
    parts = list[Tensor]()
    if Node("head", layer, 0) in wiring.place:
        parts.append(by_head(model, layer, _difference(source, base, Site("z", layer))))
    elif Node("attn", layer) in wiring.place:
        parts.append(_difference(source, base, Site("attn_out", layer)))
    if Node("mlp", layer) in wiring.place:
        parts.append(_difference(source, base, Site("mlp_out", layer)))
    return parts


def by_head(model: Model, layer: int, z: Tensor) -> Tensor:
    """(head, pos, d_model): what each head of z (1, pos, head, d_head) writes, without the bias they share."""
    weight = model.weights.W_O[layer]
    return torch.einsum("phd,hde->hpe", z[0].to(weight.dtype), weight)


def _difference(source: Run, base: Run, site: Site) -> Tensor:
    more, less = source[site], base[site]
    wide = torch.promote_types(more.dtype, torch.float32)
    return more.to(wide) - less.to(wide)


def check_additive(model: Model, more: Tensor, source: Run, base: Run) -> None:
    """Raise `SiteUnavailable` where the senders do not account for all that the last residuals differ by."""
    site = Site("resid_post", model.n_layers - 1)
    all_of_it = _difference(source, base, site)[0]
    error = float((more.sum(0) - all_of_it).abs().max() / more.abs().max().clamp_min(1e-6))
    if error > (_HALF if source[site].dtype.itemsize < 4 else _SINGLE):
        raise SiteUnavailable(
            f"the edges of {model.anatomy.family} cannot be told: what its embedding, attention and MLPs write is not "
            f"all of its residual stream (off by {error:.1e}). model.check() may tell what else there is."
        )
