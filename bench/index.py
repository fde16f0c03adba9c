"""What an index costs beyond running the model and its encoder, and opening one: d_in 768, 24,576 features, k 32."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.interleaved import Ratio
from lenskit.transcoders.index import files
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.transcoders.index.finishing import gathered
from lenskit.transcoders.index.gathering import Gathering

D, FEATURES, K, LENGTH, VOCAB = 768, 24_576, 32, 128, 50_257
CHUNKS, AT_ONCE = 2048, 256  # 260,096 positions, told in parts of a million activations


def report() -> Iterator[Ratio | str]:
    """The pass from its beginning, in which most is new, over the bare encoder product for the same positions."""
    random = np.random.default_rng(0)
    ids = (random.zipf(1.2, (CHUNKS, LENGTH)) % VOCAB).astype(np.uint32)
    sizes: dict[str, Any] = {"top": 16, "per_band": 4, "bins": 32}
    gathering = Gathering(FEATURES, ids, **sizes)
    encode, own, products = _encoder(), 0.0, list[float]()
    for first in range(0, CHUNKS, AT_ONCE):
        given = _activations(ids, first, random)
        begun = time.perf_counter()
        gathering.add(*given)
        own += time.perf_counter() - begun
        for _ in range(3):
            begun = time.perf_counter()
            encode()
            products.append(time.perf_counter() - begun)
    product = statistics.median(products) * CHUNKS * (LENGTH - 1) / 1024
    yield Ratio("the index's own cost, over the encoder product", [own / product], own, product, 0.05)
    yield from _opening(gathering, sizes)


def _encoder() -> Any:
    """The bare product for 1,024 positions, in blocks of 256 as `Transcoder` has them."""
    noise = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1024, D, generator=noise), torch.randn(FEATURES, D, generator=noise)
    bias, spare = torch.zeros(FEATURES), torch.empty(256, FEATURES)

    def encode() -> None:
        for block in x.split(256):
            torch.addmm(bias, block, weight.T, out=spare)

    encode()
    return encode


def _activations(ids: np.ndarray, first: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A million made-up activations: of 32 features of a position 20 belong to its token, the others to nothing, and
    some features are a thousand times rarer than others.
    """
    row, pos = np.nonzero(np.ones((AT_ONCE, LENGTH - 1)))
    positions = np.repeat(((first + row) * LENGTH + pos + 1).astype(np.uint32), K)
    number = np.tile(np.arange(K, dtype=np.uint64), len(row))
    tokens = ids.reshape(-1)[positions].astype(np.uint64)
    seed = np.where(
        number < 20, tokens * np.uint64(K) + number, random.integers(0, 1 << 40, len(number)).astype(np.uint64)
    )
    share = (seed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.float64) / (1 << 24)
    features = (FEATURES * share**2).astype(np.int64)
    values = (random.exponential(1.0, len(features)) + 0.01).astype(np.float32)
    _, once = np.unique(positions.astype(np.int64) * FEATURES + features, return_index=True)
    return features[once], positions[once], values[once], np.ones(len(once), bool)


def _opening(gathering: Gathering, sizes: dict[str, Any]) -> Iterator[str]:
    """How long it takes to open what was gathered, and to have the numbers of a list."""
    gathering.ended()
    about = {**sizes, "n_features": FEATURES, "tokens": CHUNKS * (LENGTH - 1), "length": LENGTH, "skip": 1}
    about |= {"bands": 5, "window": 33, "belongs": "", "identity": {}, "provenance": {}}
    about |= {"basis": {"kind": "dictionary", "name": "made up", "reads": "mlp_in.8", "writes": ["mlp_out.8"]}}
    about |= {"lacks": dict.fromkeys(("promotes", "de_embedding", "best_heads"), "made up")}
    arrays = gathered(gathering, about)
    for name, shape in files.shapes(about).items():
        arrays.setdefault(name, np.zeros([16 if n is None else n for n in shape], np.int32))
    with tempfile.TemporaryDirectory() as folder:
        files.write(Path(folder), arrays, about)
        size = (Path(folder) / files.NUMBERS).stat().st_size
        times = list[float]()
        for _ in range(11):
            begun = time.perf_counter()
            index = FeatureIndex.open(folder)
            index.sorted_by("density")
            times.append((time.perf_counter() - begun) * 1e3)
        yield (
            f"     opening an index of {FEATURES:,} features ({size / 1e6:.0f} MB) and sorting it by density: "
            f"{statistics.median(times):.1f} ms"
        )
