"""lenskit: look inside a language model while it is live in the notebook cell.

>>> import lenskit as lk
>>> model = lk.load("demo")  # doctest: +SKIP
>>> lk.widgets.LensTable(model, "The capital of France is")  # doctest: +SKIP

Everything is loaded on first use, so that `import lenskit` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenskit import widgets as widgets
    from lenskit.lenses.lens import LogitLens as LogitLens
    from lenskit.lenses.trajectory import Trajectory as Trajectory
    from lenskit.models.direct import DirectLogits as DirectLogits
    from lenskit.models.direct import direct_logits as direct_logits
    from lenskit.models.directions import direction_between as direction_between
    from lenskit.models.directions import directions as directions
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
    from lenskit.models.files.load_error import LoadError as LoadError
    from lenskit.models.finding.order import SitePassed as SitePassed
    from lenskit.models.generate import Generation as Generation
    from lenskit.models.head_scores import head_scores as head_scores
    from lenskit.models.head_scores import heads_figure as heads_figure
    from lenskit.models.head_scores import repeated_tokens as repeated_tokens
    from lenskit.models.load import load as load
    from lenskit.models.model import Model as Model
    from lenskit.models.run import Run as Run
    from lenskit.models.running.patch import Patch as Patch
    from lenskit.models.sites import Site as Site
    from lenskit.models.sites import SiteUnavailable as SiteUnavailable
    from lenskit.models.trace import Trace as Trace

__version__ = "0.1.0"

_HOMES = {
    "Add": "lenskit.models.edits",
    "Call": "lenskit.models.edits",
    "DirectLogits": "lenskit.models.direct",
    "Edit": "lenskit.models.edits",
    "Generation": "lenskit.models.generate",
    "LoadError": "lenskit.models.files.load_error",
    "LogitLens": "lenskit.lenses.lens",
    "Mean": "lenskit.models.edits",
    "Model": "lenskit.models.model",
    "NothingEdited": "lenskit.models.edits",
    "Patch": "lenskit.models.running.patch",
    "Project": "lenskit.models.edits",
    "Resample": "lenskit.models.edits",
    "Run": "lenskit.models.run",
    "Scale": "lenskit.models.edits",
    "Set": "lenskit.models.edits",
    "Site": "lenskit.models.sites",
    "SitePassed": "lenskit.models.finding.order",
    "SiteUnavailable": "lenskit.models.sites",
    "Splice": "lenskit.models.edits",
    "Trace": "lenskit.models.trace",
    "Trajectory": "lenskit.lenses.trajectory",
    "Zero": "lenskit.models.edits",
    "direct_logits": "lenskit.models.direct",
    "direction_between": "lenskit.models.directions",
    "directions": "lenskit.models.directions",
    "head_scores": "lenskit.models.head_scores",
    "heads_figure": "lenskit.models.head_scores",
    "load": "lenskit.models.load",
    "load_edits": "lenskit.models.edit_files",
    "repeated_tokens": "lenskit.models.head_scores",
    "save_edits": "lenskit.models.edit_files",
}

__all__ = [
    "Add",
    "Call",
    "DirectLogits",
    "Edit",
    "Generation",
    "LoadError",
    "LogitLens",
    "Mean",
    "Model",
    "NothingEdited",
    "Patch",
    "Project",
    "Resample",
    "Run",
    "Scale",
    "Set",
    "Site",
    "SitePassed",
    "SiteUnavailable",
    "Splice",
    "Trace",
    "Trajectory",
    "Zero",
    "__version__",
    "direct_logits",
    "direction_between",
    "directions",
    "head_scores",
    "heads_figure",
    "load",
    "load_edits",
    "repeated_tokens",
    "save_edits",
    "widgets",
]


def __getattr__(name: str) -> object:
    if name == "widgets":
        return import_module("lenskit.widgets")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lenskit' has no attribute {name!r}. It has: {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return __all__
