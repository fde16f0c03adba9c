"""Held rows: features at a multiple of what they are on a prompt, as edits of several copies of it in one forward.

The first copy is the prompt as it is. In others some features are held, whatever reaches them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lenskit.models.edits import Call
from lenskit.models.sites import Site
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.transcoder import Transcoder

CLEAN = 0
"""The copy that is left as it is."""

Note = Callable[[Tensor], object]
"""Told how active each held feature is on the prompt, (held,), when the forward comes by."""


class Held(NamedTuple):
    """One feature of a layer in one copy, and what its activation on the prompt is multiplied by."""

    row: int
    pos: int
    feature: int
    factor: float


def holding(
    kinds: Sequence[str],
    dictionaries: Mapping[int | None, Transcoder],
    layer: int,
    held: Sequence[Held],
    note: Note = lambda _: None,
) -> list[Call]:
    """The edits that hold features of one layer.

    kinds: of each layer "transcoder" or "neurons". dictionaries: by the layer that they read.

    Raises `ValueError` for a dictionary that is not here and a feature that does not exist.
    """
    rows, pos, features = (torch.tensor(column) for column in list(zip(*held, strict=True))[:3])
    factors = torch.tensor([each.factor for each in held], dtype=torch.float64)
    if kinds[layer] == "neurons":

        def put(post: Tensor) -> Tensor:
            check_features(features.tolist(), post.shape[-1], layer)
            own = wide(post[CLEAN, pos, features])  # in half precision .99 would be .988
            note(own)
            post[rows, pos, features] = (own * factors.to(own)).to(post)
            return post

        return [Call("mlp_post", put, layers=layer)]
    each = dictionary_of(dictionaries, layer)
    check_features(features.tolist(), each.n_features, layer)
    lacking = list[Tensor]()

    def look(x: Tensor) -> Tensor:
        own = active(each, x[CLEAN, pos], features)
        note(own)
        now = active(each, x[rows, pos], features) * written_scale(each, x[rows, pos])
        lacking[:] = [factors.to(own) * own * written_scale(each, x[CLEAN, pos]) - now]
        return x

    def put_at(site: Site, write: int) -> Call:
        def fn(out: Tensor) -> Tensor:
            given = lacking[0][:, None] * each.W_dec[write][features]
            return out.index_put_((rows, pos), given.to(out), accumulate=True)

        return Call(site.name, fn, layers=site.layer)

    looking = Call(each.reads.name, look, layers=each.reads.layer)
    return [looking, *(put_at(site, write) for write, site in enumerate(each.writes))]


def dictionary_of(dictionaries: Mapping[int | None, Transcoder], layer: int) -> Transcoder:
    """The dictionary that reads a layer. Raises `ValueError` where it is not here."""
    if layer not in dictionaries:
        raise ValueError(
            f"the features of layer {layer} are those of a dictionary, which is not here: give the transcoders that "
            "the graph was made with."
        )
    return dictionaries[layer]


def active(each: Transcoder, x: Tensor, features: Tensor) -> Tensor:
    """(held,): how active a feature is in each x (held, d_in)."""
    return each.encode(x).dense().gather(1, features[:, None])[:, 0]


def written_scale(each: Transcoder, x: Tensor) -> Tensor:
    """(held,), or a single 1: by what a dictionary multiplies what its features write for each x (held, d_in)."""
    scale = each.normalised(each.checked(x)).scale if each.restores else None
    return torch.ones(1) if scale is None else scale[:, 0]


def check_features(features: Sequence[int], count: int, layer: int) -> None:
    """Raise `ValueError` for a feature that does not exist."""
    for feature in features:
        if not 0 <= feature < count:
            raise ValueError(f"feature {layer}.{feature} does not exist: the layer has features 0 to {count - 1}.")
