"""Floor 3: from a prompt to the graph of features that made the answer, checked by intervention.

>>> import lenskit as lk
>>> graph = lk.circuits.attribute(model, "The keys to the cabinet", target=" are", versus=" is")  # doctest: +SKIP
>>> lk.widgets.CircuitGraph(graph, model=model)                                                  # doctest: +SKIP

Everything is loaded on first use. No module here has a public name of its own: the function would vanish behind it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenskit.circuits.along_paths.notation import Path as Path
    from lenskit.circuits.along_paths.notation import Step as Step
    from lenskit.circuits.along_paths.path_filters import StepFilter as StepFilter
    from lenskit.circuits.along_paths.paths import Paths as Paths
    from lenskit.circuits.along_paths.paths import best_paths as best_paths
    from lenskit.circuits.attributing.asking import attribute as attribute
    from lenskit.circuits.attributing.asking import attribution as attribution
    from lenskit.circuits.attributing.attribution_work import Attribution as Attribution
    from lenskit.circuits.by_weights.connecting import Connections as Connections
    from lenskit.circuits.by_weights.connecting import connections as connections
    from lenskit.circuits.by_weights.de_embedded import DeEmbedding as DeEmbedding
    from lenskit.circuits.by_weights.de_embedded import de_embedding as de_embedding
    from lenskit.circuits.by_weights.input_times_gradient import InputTimesGradient as InputTimesGradient
    from lenskit.circuits.by_weights.input_times_gradient import mean_input_times_gradient as mean_input_times_gradient
    from lenskit.circuits.by_weights.moving import MovingHeads as MovingHeads
    from lenskit.circuits.by_weights.moving import moving_heads as moving_heads
    from lenskit.circuits.by_weights.pullback import FeatureConnections as FeatureConnections
    from lenskit.circuits.by_weights.pullback import connections_of as connections_of
    from lenskit.circuits.changing.causal import CausalCheck as CausalCheck
    from lenskit.circuits.changing.causal import causal_check as causal_check
    from lenskit.circuits.changing.effects import total_effect as total_effect
    from lenskit.circuits.changing.live import Ablated as Ablated
    from lenskit.circuits.changing.live import LiveCircuit as LiveCircuit
    from lenskit.circuits.graph import Edge as Edge
    from lenskit.circuits.graph import Graph as Graph
    from lenskit.circuits.merging import merged as merged
    from lenskit.circuits.nodes import Node as Node

_HOMES = {
    "Ablated": "lenskit.circuits.changing.live",
    "Attribution": "lenskit.circuits.attributing.attribution_work",
    "CausalCheck": "lenskit.circuits.changing.causal",
    "Connections": "lenskit.circuits.by_weights.connecting",
    "DeEmbedding": "lenskit.circuits.by_weights.de_embedded",
    "Edge": "lenskit.circuits.graph",
    "FeatureConnections": "lenskit.circuits.by_weights.pullback",
    "Graph": "lenskit.circuits.graph",
    "InputTimesGradient": "lenskit.circuits.by_weights.input_times_gradient",
    "LiveCircuit": "lenskit.circuits.changing.live",
    "MovingHeads": "lenskit.circuits.by_weights.moving",
    "Node": "lenskit.circuits.nodes",
    "Path": "lenskit.circuits.along_paths.notation",
    "Paths": "lenskit.circuits.along_paths.paths",
    "Step": "lenskit.circuits.along_paths.notation",
    "StepFilter": "lenskit.circuits.along_paths.path_filters",
    "attribute": "lenskit.circuits.attributing.asking",
    "attribution": "lenskit.circuits.attributing.asking",
    "best_paths": "lenskit.circuits.along_paths.paths",
    "causal_check": "lenskit.circuits.changing.causal",
    "connections": "lenskit.circuits.by_weights.connecting",
    "connections_of": "lenskit.circuits.by_weights.pullback",
    "de_embedding": "lenskit.circuits.by_weights.de_embedded",
    "mean_input_times_gradient": "lenskit.circuits.by_weights.input_times_gradient",
    "merged": "lenskit.circuits.merging",
    "moving_heads": "lenskit.circuits.by_weights.moving",
    "total_effect": "lenskit.circuits.changing.effects",
}

__all__ = [
    "Ablated",
    "Attribution",
    "CausalCheck",
    "Connections",
    "DeEmbedding",
    "Edge",
    "FeatureConnections",
    "Graph",
    "InputTimesGradient",
    "LiveCircuit",
    "MovingHeads",
    "Node",
    "Path",
    "Paths",
    "Step",
    "StepFilter",
    "attribute",
    "attribution",
    "best_paths",
    "causal_check",
    "connections",
    "connections_of",
    "de_embedding",
    "mean_input_times_gradient",
    "merged",
    "moving_heads",
    "total_effect",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lenskit.circuits' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
