"""Floor 2: which activation matters: sweeps, gradient estimates, paths and circuits.

>>> import lenskit as lk
>>> lk.patching.sweep(model, clean, corrupt, "resid_pre", lk.logit_diff(" Mary", " John"))  # doctest: +SKIP

Everything is loaded on first use. No module here has a public name of its own: the function would vanish behind it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenskit.patching.ablations import Ablation as Ablation
    from lenskit.patching.ablations import ablate as ablate
    from lenskit.patching.align import PromptsDiffer as PromptsDiffer
    from lenskit.patching.attribution_patching import attribution as attribution
    from lenskit.patching.circuit import Circuit as Circuit
    from lenskit.patching.circuit import evaluate_circuit as evaluate_circuit
    from lenskit.patching.circuit_score import CircuitScore as CircuitScore
    from lenskit.patching.edge_attribution import Edges as Edges
    from lenskit.patching.edge_attribution import edges as edges
    from lenskit.patching.edge_runs import patched_edges as patched_edges
    from lenskit.patching.edge_runs import run_edges as run_edges
    from lenskit.patching.paths import path_patch as path_patch
    from lenskit.patching.sources import Means as Means
    from lenskit.patching.sources import Noised as Noised
    from lenskit.patching.sources import Resampled as Resampled
    from lenskit.patching.sources import Zeros as Zeros
    from lenskit.patching.sweeping import Sweeping as Sweeping
    from lenskit.patching.sweeps import sweep as sweep
    from lenskit.patching.swept import Sweep as Sweep

_HOMES = {
    "Ablation": "lenskit.patching.ablations",
    "Circuit": "lenskit.patching.circuit",
    "CircuitScore": "lenskit.patching.circuit_score",
    "Edges": "lenskit.patching.edge_attribution",
    "Means": "lenskit.patching.sources",
    "Noised": "lenskit.patching.sources",
    "PromptsDiffer": "lenskit.patching.align",
    "Resampled": "lenskit.patching.sources",
    "Sweep": "lenskit.patching.swept",
    "Sweeping": "lenskit.patching.sweeping",
    "Zeros": "lenskit.patching.sources",
    "ablate": "lenskit.patching.ablations",
    "attribution": "lenskit.patching.attribution_patching",
    "edges": "lenskit.patching.edge_attribution",
    "evaluate_circuit": "lenskit.patching.circuit",
    "patched_edges": "lenskit.patching.edge_runs",
    "path_patch": "lenskit.patching.paths",
    "run_edges": "lenskit.patching.edge_runs",
    "sweep": "lenskit.patching.sweeps",
}

__all__ = [
    "Ablation",
    "Circuit",
    "CircuitScore",
    "Edges",
    "Means",
    "Noised",
    "PromptsDiffer",
    "Resampled",
    "Sweep",
    "Sweeping",
    "Zeros",
    "ablate",
    "attribution",
    "edges",
    "evaluate_circuit",
    "patched_edges",
    "path_patch",
    "run_edges",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lenskit.patching' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
