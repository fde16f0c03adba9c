"""Features of a tiny model held by plain edits, one after the other, for the tests of the live circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.graph import Graph
from lenskit.circuits.nodes import Node
from lenskit.transcoders.activations import ReLU, TopK
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The key to the cabinet is the key"
TARGETS = (40, 50)
D, FEATURES = 32, 64


def model(kind: str = "llama") -> lk.Model:
    """The same one each time."""
    return _made(kind)


@cache
def _made(kind: str) -> lk.Model:
    return lk.Model(tiny(kind, vocab=300, layers=3), tiny_tokenizer(300), name="tiny")


@cache
def dictionary(
    layer: int = 1,
    normalise: Any = "none",
    writes: tuple[int, ...] | None = None,
    skip: bool = False,
    seed: int = 0,
) -> Transcoder:
    """A random transcoder of a layer's MLP, or one that writes several."""
    noise = torch.Generator().manual_seed(seed + layer)
    layers = writes or (layer,)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=noise)

    return Transcoder(
        drawn(FEATURES, D) / D**0.5,
        drawn(FEATURES) / 4,
        drawn(len(layers), FEATURES, D) / 4,
        None,
        ReLU() if normalise != "none" else TopK(6),
        reads=("mlp_in", layer),
        writes=[("mlp_out", each) for each in layers],
        W_skip=drawn(len(layers), D, D) / 8 if skip else None,
        normalise=normalise,
        restores=normalise != "layer norm",
    )


@cache
def graph(*dictionaries: Transcoder, kind: str = "llama") -> Graph:
    """What makes the two targets."""
    return attribute(model(kind), PROMPT, dictionaries, list(TARGETS), features=300)


def strongest(of: Graph, layer: int, count: int = 1, pos: int | None = None) -> list[Node]:
    """The most influential features of a layer."""
    top = [node for node, _ in of.top(len(of)) if node.layer == layer and pos in (None, node.pos)]
    return top[:count]


def targets(logits: torch.Tensor) -> np.ndarray:
    """The two targets of a run: a logit counts from the mean of all."""
    last = logits[0, -1].double()
    return (last[list(TARGETS)] - last.mean()).numpy()


def run_with_held(
    nodes: Sequence[Node], dictionaries: Mapping[int, Transcoder], scale: float, kind: str = "llama"
) -> torch.Tensor:
    """The logits with features held at `scale` times what they are on the clean prompt."""
    clean = model(kind).run(PROMPT, keep=["mlp_in", "mlp_post"])
    edits = list[lk.Call]()
    for node in nodes:
        if node.layer in dictionaries:
            held = _OfDictionary(dictionaries[node.layer], node, scale, clean["mlp_in", node.layer][0, node.pos])
            edits += held.edits
        else:
            value = scale * float(clean["mlp_post", node.layer][0, node.pos, node.feature])
            edits.append(lk.Call("mlp_post", _Setting(node.pos, node.feature, value), layers=node.layer))
    return model(kind).run(PROMPT, edits=edits).logits


@dataclass
class _Setting:
    pos: int
    feature: int
    value: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x[0, self.pos, self.feature] = self.value
        return x


@dataclass
class _OfDictionary:
    """One feature: what it writes now is taken away, and `scale` times what it wrote on the clean prompt added."""

    dictionary: Transcoder
    node: Node
    scale: float
    clean: torch.Tensor
    now: torch.Tensor | None = None

    @property
    def edits(self) -> list[lk.Call]:
        found = [lk.Call("mlp_in", self._look, layers=self.node.layer)]
        for write, site in enumerate(self.dictionary.writes):
            found.append(lk.Call("mlp_out", lambda x, write=write: self._put(x, write), layers=site.layer))
        return found

    def _look(self, x: torch.Tensor) -> torch.Tensor:
        self.now = x[0, self.node.pos].clone()
        return x

    def _put(self, x: torch.Tensor, write: int) -> torch.Tensor:
        assert self.now is not None
        x[0, self.node.pos] += self.scale * self._wrote(self.clean, write) - self._wrote(self.now, write)
        return x

    def _wrote(self, x: torch.Tensor, write: int) -> torch.Tensor:
        """What the feature writes: the whole output less the output without its row of the decoder."""
        each = self.dictionary
        normalise: Any = each.normalise
        parts = [each.W_dec.clone(), each.W_dec.clone()]
        parts[1][write, self.node.feature] = 0
        outputs = []
        for decoder in parts:
            other = Transcoder(
                each.W_enc,
                each.b_enc,
                decoder,
                each.b_dec,
                each.activation,
                reads=each.reads,
                writes=each.writes,
                W_skip=each.W_skip,
                normalise=normalise,
                restores=each.restores,
            )
            outputs.append(other.written(x[None], write)[0])
        return outputs[0] - outputs[1]
