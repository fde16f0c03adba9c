"""Files that went wrong, or were made to: each gives a clear error, or a graph of which all can be asked."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lenskit.circuits.graph import Graph
from lenskit.models.files.load_error import LoadError

MUTATIONS = 1000
VALUES = [
    -1, 0, 7, 10**7, 10**12, 2**70, -(2**63), 0.5, 1e300, -1e308, None, True, "", "E", "0", "x" * 5000, [], {}, [[[]]],
    {"a": [1]}, "<script>alert(1)</script>", "../../etc/passwd", "∞", "\ud800", "1e999",
]  # fmt: skip


def refused_of(change: Callable[[], object], path: Path) -> int:
    """How many of the mutations are refused; the graphs of all others are used. Little memory is taken."""
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, list[str]()
    for _ in range(MUTATIONS):
        change()
        try:
            graph = Graph.load(path)
        except LoadError as error:
            refused.append(str(error))
        else:
            with np.errstate(all="ignore"):
                use(graph)
    assert all(str(path) in each and len(each) < 2000 for each in refused)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    return len(refused)


def use(graph: Graph) -> None:
    """Ask a graph whatever can be asked, whoever wrote it."""
    assert all(isinstance(each, str) for each in (*graph.pieces, *graph.labels, *graph.groups, repr(graph)))
    small = graph.pruned()
    assert len(small.top(5)) <= 5
    for n in range(len(graph)):
        assert isinstance(graph.name(n), str)
        graph.into(n)
