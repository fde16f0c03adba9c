"""Node: a part of a model that writes into the residual stream: a head, an MLP, a whole attention or the embedding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from lenskit.models.sites import Site, SiteUnavailable

if TYPE_CHECKING:
    from lenskit.models.model import Model

Kind = Literal["head", "mlp", "attn", "embed", "logits"]


class Node(NamedTuple):
    """A head `9.6`, an MLP `5.mlp`, all heads of a layer `5.attn`, `embed` (all that enters layer 0), or `logits`.

    >>> Node.parse("9.6")
    Node(kind='head', layer=9, head=6)
    >>> str(Node("mlp", 5))
    '5.mlp'
    """

    kind: Kind
    layer: int = -1
    head: int = -1

    @classmethod
    def parse(cls, what: NodeLike) -> Node:
        """Read a node from its name, or a head from (layer, head). Raises `ValueError` for what is none."""
        if isinstance(what, Node):
            return what
        if isinstance(what, tuple):
            layer, head = what
            return cls("head", int(layer), int(head))
        if what == "embed" or what == "logits":
            return cls(what)
        if found := re.fullmatch(r"(\d+)\.(?:(\d+)|(mlp|attn))", what):
            layer = int(found[1])
            if found[2]:
                return cls("head", layer, int(found[2]))
            return cls("mlp" if found[3] == "mlp" else "attn", layer)
        raise ValueError(
            f"{what!r} is no node. Nodes are a head '9.6', an MLP '5.mlp', all heads of a layer '5.attn', 'embed' and, "
            "as a receiver, 'logits'."
        )

    @property
    def writes(self) -> Site:
        """The site at which the node's own output is seen: of a head its `z`, before the output projection."""
        if self.kind == "logits":
            raise ValueError("'logits' writes nothing: it can only be a receiver.")
        if self.kind == "embed":
            return Site("resid_pre", 0)
        return Site({"head": "z", "mlp": "mlp_out", "attn": "attn_out"}[self.kind], self.layer)

    def __str__(self) -> str:
        if self.kind in ("embed", "logits"):
            return self.kind
        return f"{self.layer}.{self.head if self.kind == 'head' else self.kind}"


NodeLike = str | tuple[int, int] | Node


def as_nodes(given: NodeLike | Iterable[NodeLike]) -> tuple[Node, ...]:
    """One node or several, without repetitions, in the order given.

    A tuple of two numbers is one head.

    >>> [str(node) for node in as_nodes(["9.6", (10, 0), "9.6"])]
    ['9.6', '10.0']
    """
    if isinstance(given, str | Node) or _is_head(given):
        return (Node.parse(given),)  # pyright: ignore[reportArgumentType] -- just checked
    return tuple(dict.fromkeys(Node.parse(each) for each in given))  # pyright: ignore[reportArgumentType] -- the same


def _is_head(given: object) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, int) for part in given)


def heads_in(model: Model, layer: int) -> int:
    """How many heads a layer's `z` has; 0 where it has none that can be told apart."""
    if layer not in model.anatomy.layers_of("z"):
        return 0
    return model.anatomy.spot(Site("z", layer)).heads or 0


def all_heads(model: Model) -> list[Node]:
    """Every head of the model whose output can be seen, by layer. Raises `SiteUnavailable` where there is none."""
    heads = [Node("head", layer, head) for layer in range(model.n_layers) for head in range(heads_in(model, layer))]
    if not heads:
        raise SiteUnavailable(f"no head can be told apart in {model.anatomy.family}: {model.sites.reasons['z']}")
    return heads


def all_mlps(model: Model) -> list[Node]:
    """Every MLP of the model whose output can be seen, by layer. Raises `SiteUnavailable` where there is none."""
    layers = model.anatomy.layers_of("mlp_out")
    if not layers:
        raise SiteUnavailable(f"no MLP can be told apart in {model.anatomy.family}: {model.sites.reasons['mlp_out']}")
    return [Node("mlp", layer) for layer in layers]


def check_nodes(model: Model, nodes: Sequence[Node]) -> None:
    """Raise `SiteUnavailable` for a node that this model does not have."""
    for node in nodes:
        if node.kind == "logits":
            continue
        model.anatomy.spot(node.writes)
        if node.kind == "head" and node.head >= (count := heads_in(model, node.layer)):
            raise SiteUnavailable(f"head {node} does not exist: layer {node.layer} has heads 0 to {count - 1}.")
