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
    from lenskit.models.load import load as load
    from lenskit.models.load_error import LoadError as LoadError
    from lenskit.models.model import Model as Model
    from lenskit.models.run import Run as Run
    from lenskit.models.sites import Site as Site
    from lenskit.models.sites import SiteUnavailable as SiteUnavailable

__version__ = "0.1.0"

_HOMES = {
    "LoadError": "lenskit.models.load_error",
    "LogitLens": "lenskit.lenses.lens",
    "Model": "lenskit.models.model",
    "Run": "lenskit.models.run",
    "Site": "lenskit.models.sites",
    "SiteUnavailable": "lenskit.models.sites",
    "Trajectory": "lenskit.lenses.trajectory",
    "load": "lenskit.models.load",
}

__all__ = [
    "LoadError",
    "LogitLens",
    "Model",
    "Run",
    "Site",
    "SiteUnavailable",
    "Trajectory",
    "__version__",
    "load",
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
