"""lenskit: look inside a language model while it is live in the notebook cell.

>>> import lenskit as lk
>>> model = lk.load("demo")  # doctest: +SKIP
>>> lk.widgets.LensTable(model, "The capital of France is")  # doctest: +SKIP

Everything is loaded on first use, so that `import lenskit` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenskit import circuits as circuits
    from lenskit import patching as patching
    from lenskit import widgets as widgets
    from lenskit.circuits.graph import Graph as Graph
    from lenskit.lenses.acting.controls import Controls as Controls
    from lenskit.lenses.acting.controls import controls as controls
    from lenskit.lenses.acting.random_blocks import random_blocks as random_blocks
    from lenskit.lenses.between import Comparison as Comparison
    from lenskit.lenses.between import compare as compare
    from lenskit.lenses.causal_basis import CausalBasis as CausalBasis
    from lenskit.lenses.causal_basis import causal_basis as causal_basis
    from lenskit.lenses.effects import effect_of as effect_of
    from lenskit.lenses.effects import layer_effects as layer_effects
    from lenskit.lenses.evaluate import evaluate as evaluate
    from lenskit.lenses.generating import generate_from as generate_from
    from lenskit.lenses.invert import invert as invert
    from lenskit.lenses.jacobian import JacobianLens as JacobianLens
    from lenskit.lenses.jspace.decompose import Decomposition as Decomposition
    from lenskit.lenses.jspace.decompose import decompose as decompose
    from lenskit.lenses.lens import LogitLens as LogitLens
    from lenskit.lenses.lens_directions import lens_directions as lens_directions
    from lenskit.lenses.readings import Readings as Readings
    from lenskit.lenses.readings import read_all as read_all
    from lenskit.lenses.trajectory import Trajectory as Trajectory
    from lenskit.lenses.tuned import TunedLens as TunedLens
    from lenskit.models.ablations import AblateLayer as AblateLayer
    from lenskit.models.ablations import RemoveSubspace as RemoveSubspace
    from lenskit.models.ablations import remove_subspace as remove_subspace
    from lenskit.models.direct import DirectLogits as DirectLogits
    from lenskit.models.direct import direct_logits as direct_logits
    from lenskit.models.directions import direction_between as direction_between
    from lenskit.models.directions import directions as directions
    from lenskit.models.directions_by_layer import DirectionsByLayer as DirectionsByLayer
    from lenskit.models.edit_files import load_edits as load_edits
    from lenskit.models.edit_files import save_edits as save_edits
    from lenskit.models.edits import Add as Add
    from lenskit.models.edits import Call as Call
    from lenskit.models.edits import Edit as Edit
    from lenskit.models.edits import Mean as Mean
    from lenskit.models.edits import NothingEdited as NothingEdited
    from lenskit.models.edits import Project as Project
    from lenskit.models.edits import Resample as Resample
    from lenskit.models.edits import Scale as Scale
    from lenskit.models.edits import Set as Set
    from lenskit.models.edits import Splice as Splice
    from lenskit.models.edits import Zero as Zero
    from lenskit.models.files.demo_texts import demo_texts as demo_texts
    from lenskit.models.files.load_error import LoadError as LoadError
    from lenskit.models.finding.order import SitePassed as SitePassed
    from lenskit.models.generate import Generation as Generation
    from lenskit.models.head_ablation import HeadAblation as HeadAblation
    from lenskit.models.head_ablation import ablate_heads as ablate_heads
    from lenskit.models.head_scores import head_scores as head_scores
    from lenskit.models.head_scores import heads_figure as heads_figure
    from lenskit.models.head_scores import repeated_tokens as repeated_tokens
    from lenskit.models.identity import ModelMismatch as ModelMismatch
    from lenskit.models.load import load as load
    from lenskit.models.model import Model as Model
    from lenskit.models.patterns import Attention as Attention
    from lenskit.models.patterns import attention as attention
    from lenskit.models.run import Run as Run
    from lenskit.models.running.patch import Patch as Patch
    from lenskit.models.sites import Site as Site
    from lenskit.models.sites import SiteUnavailable as SiteUnavailable
    from lenskit.models.steering import Ablate as Ablate
    from lenskit.models.steering import Steer as Steer
    from lenskit.models.steering import Swap as Swap
    from lenskit.models.surgery import delete_layers as delete_layers
    from lenskit.models.surgery import permute_layers as permute_layers
    from lenskit.models.surgery import replace_layers as replace_layers
    from lenskit.models.trace import Trace as Trace
    from lenskit.patching.metrics import kl as kl
    from lenskit.patching.metrics import log_prob as log_prob
    from lenskit.patching.metrics import logit_diff as logit_diff
    from lenskit.patching.metrics import prob as prob
    from lenskit.patching.metrics import rank as rank
    from lenskit.transcoders.index.bases import Neurons as Neurons
    from lenskit.transcoders.index.feature_index import FeatureIndex as FeatureIndex
    from lenskit.transcoders.splicing import spliced as spliced
    from lenskit.transcoders.transcoder import Transcoder as Transcoder

__version__ = "0.1.0"

_HOMES = {
    "Ablate": "lenskit.models.steering",
    "AblateLayer": "lenskit.models.ablations",
    "Add": "lenskit.models.edits",
    "Attention": "lenskit.models.patterns",
    "Call": "lenskit.models.edits",
    "CausalBasis": "lenskit.lenses.causal_basis",
    "Comparison": "lenskit.lenses.between",
    "Controls": "lenskit.lenses.acting.controls",
    "Decomposition": "lenskit.lenses.jspace.decompose",
    "DirectLogits": "lenskit.models.direct",
    "DirectionsByLayer": "lenskit.models.directions_by_layer",
    "Edit": "lenskit.models.edits",
    "FeatureIndex": "lenskit.transcoders.index.feature_index",
    "Generation": "lenskit.models.generate",
    "Graph": "lenskit.circuits.graph",
    "HeadAblation": "lenskit.models.head_ablation",
    "JacobianLens": "lenskit.lenses.jacobian",
    "LoadError": "lenskit.models.files.load_error",
    "LogitLens": "lenskit.lenses.lens",
    "Mean": "lenskit.models.edits",
    "Model": "lenskit.models.model",
    "ModelMismatch": "lenskit.models.identity",
    "Neurons": "lenskit.transcoders.index.bases",
    "NothingEdited": "lenskit.models.edits",
    "Patch": "lenskit.models.running.patch",
    "Project": "lenskit.models.edits",
    "Readings": "lenskit.lenses.readings",
    "RemoveSubspace": "lenskit.models.ablations",
    "Resample": "lenskit.models.edits",
    "Run": "lenskit.models.run",
    "Scale": "lenskit.models.edits",
    "Set": "lenskit.models.edits",
    "Site": "lenskit.models.sites",
    "SitePassed": "lenskit.models.finding.order",
    "SiteUnavailable": "lenskit.models.sites",
    "Splice": "lenskit.models.edits",
    "Steer": "lenskit.models.steering",
    "Swap": "lenskit.models.steering",
    "Trace": "lenskit.models.trace",
    "Trajectory": "lenskit.lenses.trajectory",
    "Transcoder": "lenskit.transcoders.transcoder",
    "TunedLens": "lenskit.lenses.tuned",
    "Zero": "lenskit.models.edits",
    "ablate_heads": "lenskit.models.head_ablation",
    "attention": "lenskit.models.patterns",
    "causal_basis": "lenskit.lenses.causal_basis",
    "compare": "lenskit.lenses.between",
    "controls": "lenskit.lenses.acting.controls",
    "decompose": "lenskit.lenses.jspace.decompose",
    "delete_layers": "lenskit.models.surgery",
    "demo_texts": "lenskit.models.files.demo_texts",
    "direct_logits": "lenskit.models.direct",
    "direction_between": "lenskit.models.directions",
    "directions": "lenskit.models.directions",
    "effect_of": "lenskit.lenses.effects",
    "evaluate": "lenskit.lenses.evaluate",
    "generate_from": "lenskit.lenses.generating",
    "head_scores": "lenskit.models.head_scores",
    "heads_figure": "lenskit.models.head_scores",
    "invert": "lenskit.lenses.invert",
    "kl": "lenskit.patching.metrics",
    "layer_effects": "lenskit.lenses.effects",
    "lens_directions": "lenskit.lenses.lens_directions",
    "load": "lenskit.models.load",
    "load_edits": "lenskit.models.edit_files",
    "log_prob": "lenskit.patching.metrics",
    "logit_diff": "lenskit.patching.metrics",
    "permute_layers": "lenskit.models.surgery",
    "prob": "lenskit.patching.metrics",
    "random_blocks": "lenskit.lenses.acting.random_blocks",
    "rank": "lenskit.patching.metrics",
    "read_all": "lenskit.lenses.readings",
    "remove_subspace": "lenskit.models.ablations",
    "repeated_tokens": "lenskit.models.head_scores",
    "replace_layers": "lenskit.models.surgery",
    "save_edits": "lenskit.models.edit_files",
    "spliced": "lenskit.transcoders.splicing",
}

__all__ = [
    "Ablate",
    "AblateLayer",
    "Add",
    "Attention",
    "Call",
    "CausalBasis",
    "Comparison",
    "Controls",
    "Decomposition",
    "DirectLogits",
    "DirectionsByLayer",
    "Edit",
    "FeatureIndex",
    "Generation",
    "Graph",
    "HeadAblation",
    "JacobianLens",
    "LoadError",
    "LogitLens",
    "Mean",
    "Model",
    "ModelMismatch",
    "Neurons",
    "NothingEdited",
    "Patch",
    "Project",
    "Readings",
    "RemoveSubspace",
    "Resample",
    "Run",
    "Scale",
    "Set",
    "Site",
    "SitePassed",
    "SiteUnavailable",
    "Splice",
    "Steer",
    "Swap",
    "Trace",
    "Trajectory",
    "Transcoder",
    "TunedLens",
    "Zero",
    "__version__",
    "ablate_heads",
    "attention",
    "causal_basis",
    "circuits",
    "compare",
    "controls",
    "decompose",
    "delete_layers",
    "demo_texts",
    "direct_logits",
    "direction_between",
    "directions",
    "effect_of",
    "evaluate",
    "generate_from",
    "head_scores",
    "heads_figure",
    "invert",
    "kl",
    "layer_effects",
    "lens_directions",
    "load",
    "load_edits",
    "log_prob",
    "logit_diff",
    "patching",
    "permute_layers",
    "prob",
    "random_blocks",
    "rank",
    "read_all",
    "remove_subspace",
    "repeated_tokens",
    "replace_layers",
    "save_edits",
    "spliced",
    "widgets",
]


def __getattr__(name: str) -> object:
    if name in ("circuits", "patching", "widgets"):
        return import_module(f"lenskit.{name}")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lenskit' has no attribute {name!r}. It has: {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return __all__
