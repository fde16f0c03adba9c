"""Nodes: what an attribution graph connects: token embeddings, features, what dictionaries miss, and logits."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["embed", "feature", "error", "logit"]
KINDS: tuple[Kind, ...] = ("embed", "feature", "error", "logit")

_NAME = re.compile(r"(?:embed|(?P<layer>\d+)\.(?:(?P<feature>\d+)|error)|logit\.(?P<logit>\d+))@(?P<pos>\d+)")


class Node(NamedTuple):
    """A node of a graph, by what it is and where.

    Attributes:
        kind: "embed", a token's embedding; "feature", a feature of a dictionary or a neuron; "error", what the
            dictionary of a layer misses; "logit", a target.
        layer: the layer, -1 for an embedding and the number of layers for a logit.
        pos: the position.
        feature: which feature; of an embedding the token, of a logit which of the targets; -1 for an error.

    >>> Node.parse("20.155@7")
    Node(kind='feature', layer=20, pos=7, feature=155)
    >>> str(Node("error", 20, 7)), str(Node("embed", -1, 3, 504))
    ('20.error@7', 'embed@3')
    """

    kind: Kind
    layer: int
    pos: int
    feature: int = -1

    @classmethod
    def parse(cls, what: NodeLike) -> Node:
        """Read it from its name: `"embed@3"`, `"20.155@7"`, `"20.error@7"`, `"logit.0@11"`.

        What the name does not say, the token of an embedding and the layer of a logit, is -1. Raises `ValueError` for
        what is no name of a node.
        """
        if isinstance(what, Node):
            return what
        found = _NAME.fullmatch(what)
        if found is None:
            raise ValueError(
                f"{what!r} is no node. Nodes are a feature '20.155@7' (layer, feature, position), an error "
                "'20.error@7', an embedding 'embed@3' and a target 'logit.0@11'."
            )
        pos = int(found["pos"])
        if found["logit"]:
            return cls("logit", -1, pos, int(found["logit"]))
        if found["layer"] is None:
            return cls("embed", -1, pos)
        if found["feature"]:
            return cls("feature", int(found["layer"]), pos, int(found["feature"]))
        return cls("error", int(found["layer"]), pos)

    def __str__(self) -> str:
        if self.kind == "embed":
            return f"embed@{self.pos}"
        if self.kind == "logit":
            return f"logit.{self.feature}@{self.pos}"
        return f"{self.layer}.{'error' if self.kind == 'error' else self.feature}@{self.pos}"


NodeLike = str | Node
