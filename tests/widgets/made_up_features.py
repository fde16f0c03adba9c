"""A tiny model and an index of its neurons, for the feature browser's tests."""

from __future__ import annotations

import tempfile
from functools import cache

import torch

import lenskit as lk
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import CORPUS, tiny, tiny_tokenizer

PROMPT = "The key to the cabinet is the key"
NEURONS = 96


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300, layers=3), tiny_tokenizer(300), name="tiny")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory()
    FeatureIndex.build(
        model(), ("mlp_post", 1), CORPUS * 4, made.name, length=16, top=4, per_band=2, on_progress=lambda _: None
    )
    return made


def dictionary() -> Transcoder:
    """A random transcoder of the MLP of layer 1."""
    noise = torch.Generator().manual_seed(0)
    weights = [torch.randn(64, 32, generator=noise) / 32**0.5 for _ in range(2)]
    return Transcoder(weights[0], None, weights[1], None, TopK(6), reads=("mlp_in", 1), writes=("mlp_out", 1))


def index() -> FeatureIndex:
    """The same each time, opened anew."""
    return FeatureIndex.open(_folder().name)
