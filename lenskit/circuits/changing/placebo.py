"""Placebo: features of a prompt held at a multiple of what they are, and beside them random features changed as much.

Of several copies of the prompt the first is left as it is, and in the second the features are held, whatever reaches
them. In each of the others, as many other features of the same layers, drawn at random, are changed by vectors as long
at the same positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lenskit.circuits.changing.held_rows import (
    CLEAN,
    Held,
    active,
    check_features,
    dictionary_of,
    holding,
    written_scale,
)
from lenskit.circuits.nodes import Node
from lenskit.models.edits import Call
from lenskit.transcoders.transcoder import Transcoder

HELD, DRAWN = 1, 2
"""The rows: as it is (`CLEAN`), held, and from here on random features."""


class Placebo:
    """Some features of a prompt, to be held in one forward, beside random ones.

    Args:
        nodes: features, whose layers have the `kinds` "transcoder" or "neurons".
        dictionaries: by the layer that they read.
        scale: the factor; 0 takes the features away.
        draws: how many copies with random features there are.
        noise: what draws them.

    Attributes:
        edits: for a forward of `2 + draws` copies of the prompt.
        seen: once that has run, how active each feature is in the first copy, by node.

    Raises `ValueError` where a layer's dictionary is not there, or has no such feature.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        kinds: Sequence[str],
        dictionaries: Mapping[int | None, Transcoder],
        *,
        scale: float,
        draws: int,
        noise: torch.Generator,
    ) -> None:
        self.scale, self.draws, self._noise = scale, draws, noise
        self.seen = dict[Node, float]()
        self.edits: list[Call] = []
        by_layer = defaultdict[int, list[Node]](list)
        for node in nodes:
            by_layer[node.layer].append(node)
        for layer, here in sorted(by_layer.items()):
            held = [Held(HELD, node.pos, node.feature, scale) for node in here]
            self.edits += holding(kinds, dictionaries, layer, held, self._noting(here))
            places = defaultdict[int, list[int]](list)
            for node in here:
                places[node.pos].append(node.feature)
            if kinds[layer] == "neurons":
                self.edits.append(Call("mlp_post", self._neurons(places, layer), layers=layer))
            else:
                self.edits += self._features(dictionary_of(dictionaries, layer), places)

    def _noting(self, nodes: Sequence[Node]) -> Callable[[Tensor], object]:
        return lambda own: self.seen.update(zip(nodes, own.tolist(), strict=True))

    def _neurons(self, places: Mapping[int, list[int]], layer: int) -> Callable[[Tensor], Tensor]:
        others: dict[int, Tensor] = {}

        def put(post: Tensor) -> Tensor:
            for pos, features in places.items():
                check_features(features, post.shape[-1], layer)
                if pos not in others:
                    others[pos] = self._others(torch.ones(post.shape[-1], dtype=torch.bool), features)
                change = (self.scale - 1) * post[CLEAN, pos, features]
                drawn = post.new_zeros(self.draws, post.shape[-1])
                drawn.scatter_(1, others[pos].to(post.device), change.expand(self.draws, -1))
                post[DRAWN:, pos] += drawn
            return post

        return put

    def _features(self, dictionary: Transcoder, places: Mapping[int, list[int]]) -> list[Call]:
        drawable = (dictionary.W_dec != 0).any(-1).any(0).cpu()  # those that write something
        others = {pos: self._others(drawable, features) for pos, features in places.items()}
        changes = dict[int, Tensor]()

        def look(x: Tensor) -> Tensor:
            for pos, features in places.items():
                own = x[CLEAN, [pos] * len(features)]
                amounts = active(dictionary, own, torch.tensor(features)) * written_scale(dictionary, own)
                changes[pos] = (self.scale - 1) * amounts
            return x

        def put(write: int) -> Callable[[Tensor], Tensor]:
            def fn(out: Tensor) -> Tensor:
                rows = dictionary.W_dec[write]
                for pos, features in places.items():
                    drawn = torch.einsum("k,rkd->rd", changes[pos], rows[others[pos].to(rows.device)])
                    out[DRAWN:, pos] += _as_long(drawn, changes[pos] @ rows[features]).to(out)
                return out

            return fn

        looking = Call(dictionary.reads.name, look, layers=dictionary.reads.layer)
        writes = enumerate(dictionary.writes)
        return [looking, *(Call(site.name, put(write), layers=site.layer) for write, site in writes)]

    def _others(self, drawable: Tensor, features: list[int]) -> Tensor:
        """(draw, feature): for each draw as many other features, none of them twice."""
        chances = torch.rand(self.draws, len(drawable), generator=self._noise)
        allowed = drawable.clone()
        allowed[features] = False
        if int(allowed.sum()) < len(features):
            raise ValueError(f"{len(features)} features of one place are held, and there are not as many others.")
        return chances.masked_fill(~allowed, -1).topk(len(features)).indices


def _as_long(vectors: Tensor, like: Tensor) -> Tensor:
    """(row, d): each vector with the length of another one."""
    return vectors * (like.norm() / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-30))
