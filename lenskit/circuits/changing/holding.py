"""Holding: features of a prompt held at a multiple of what they are, as edits of several copies of the prompt at once.

The first copy is left as it is. In the second the features are held, whatever reaches them. In each of the others, as
many other features of the same layers, drawn at random, are changed by vectors as long at the same positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lenskit.circuits.nodes import Node
from lenskit.models.edits import Call
from lenskit.transcoders.transcoder import Transcoder

CLEAN, HELD, DRAWN = 0, 1, 2
"""The rows: as it is, held, and from here on random features."""


class Holding:
    """Some features of a prompt, to be held in one forward.

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
        dictionaries: Mapping[int, Transcoder],
        *,
        scale: float,
        draws: int,
        noise: torch.Generator,
    ) -> None:
        self.scale, self.draws, self._noise = scale, draws, noise
        self.seen = dict[Node, float]()
        self.edits: list[Call] = []
        by_layer = defaultdict[int, dict[int, list[int]]](dict)
        for node in nodes:
            by_layer[node.layer].setdefault(node.pos, []).append(node.feature)
        for layer, places in sorted(by_layer.items()):
            if kinds[layer] == "neurons":
                self._hold_neurons(layer, places)
            elif layer in dictionaries:
                self._hold_features(dictionaries[layer], layer, places)
            else:
                raise ValueError(
                    f"the features of layer {layer} are those of a dictionary, which is not here: give the "
                    "transcoders that the graph was made with."
                )

    def _hold_neurons(self, layer: int, places: Mapping[int, list[int]]) -> None:
        others: dict[int, Tensor] = {}

        def put(post: Tensor) -> Tensor:
            for pos, features in places.items():
                _check_features(features, post.shape[-1], layer)
                if pos not in others:
                    others[pos] = self._others(torch.ones(post.shape[-1], dtype=torch.bool), features)
                clean = post[CLEAN, pos, features]
                self._note(layer, pos, features, clean)
                post[HELD, pos, features] = self.scale * clean
                change = (self.scale - 1) * clean
                drawn = post.new_zeros(self.draws, post.shape[-1])
                drawn.scatter_(1, others[pos].to(post.device), change.expand(self.draws, -1))
                post[DRAWN:, pos] += drawn
            return post

        self.edits.append(Call("mlp_post", put, layers=layer))

    def _hold_features(self, dictionary: Transcoder, layer: int, places: Mapping[int, list[int]]) -> None:
        drawable = (dictionary.W_dec != 0).any(-1).any(0).cpu()  # those that write something
        for features in places.values():
            _check_features(features, dictionary.n_features, layer)
        others = {pos: self._others(drawable, features) for pos, features in places.items()}
        amounts = dict[int, Tensor]()

        def look(x: Tensor) -> Tensor:
            for pos, features in places.items():
                amounts[pos] = self._amounts(dictionary, x[: HELD + 1, pos], layer, pos, features)
            return x

        def put(write: int) -> Callable[[Tensor], Tensor]:
            def fn(out: Tensor) -> Tensor:
                rows = dictionary.W_dec[write]
                for pos, features in places.items():
                    clean, now = amounts[pos]
                    out[HELD, pos] += ((self.scale * clean - now) @ rows[features]).to(out)
                    change = (self.scale - 1) * clean
                    drawn = torch.einsum("k,rkd->rd", change, rows[others[pos].to(rows.device)])
                    out[DRAWN:, pos] += _as_long(drawn, change @ rows[features]).to(out)
                return out

            return fn

        self.edits.append(Call(dictionary.reads.name, look, layers=dictionary.reads.layer))
        self.edits += [Call(site.name, put(write), layers=site.layer) for write, site in enumerate(dictionary.writes)]

    def _amounts(self, dictionary: Transcoder, x: Tensor, layer: int, pos: int, features: list[int]) -> Tensor:
        """(row, feature): how active each is in the first two copies, on the scale of what is written."""
        x = dictionary.checked(x)
        active = dictionary.encode(x).dense()[:, features]
        self._note(layer, pos, features, active[CLEAN])
        scale = dictionary.normalised(x).scale if dictionary.restores else None
        return active if scale is None else active * scale

    def _note(self, layer: int, pos: int, features: list[int], active: Tensor) -> None:
        for feature, value in zip(features, active.tolist(), strict=True):
            self.seen[Node("feature", layer, pos, feature)] = value

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


def _check_features(features: Sequence[int], count: int, layer: int) -> None:
    for feature in features:
        if not 0 <= feature < count:
            raise ValueError(f"feature {layer}.{feature} does not exist: the layer has features 0 to {count - 1}.")
