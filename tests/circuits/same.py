"""Whether two graphs are the same, to the last bit."""

import numpy as np

from lenskit.circuits.graph import EDGE_ARRAYS, NODE_ARRAYS, Graph


def assert_same(one: Graph, other: Graph, *, but: tuple[str, ...] = ()) -> None:
    for name in NODE_ARRAYS | EDGE_ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    for name in ("tokens", "pieces", "labels", "layers", "n_layers", "groups", "provenance"):
        if name not in but:
            assert getattr(one, name) == getattr(other, name), name
