"""Floor 4: the live views. Each shows a value object, and asks a live source for a new one.

>>> import lenskit as lk
>>> lk.widgets.LensTable(lk.load("demo"), "The capital of France is")  # doctest: +SKIP
"""

from lenskit.widgets.attention_cell import AttentionCell
from lenskit.widgets.attention_view import AttentionView
from lenskit.widgets.circuit_graph import CircuitGraph
from lenskit.widgets.feature_browser import FeatureBrowser
from lenskit.widgets.feature_spec import FeaturePlace
from lenskit.widgets.lens_rows import Selection
from lenskit.widgets.lens_table import LensTable
from lenskit.widgets.link import Link, link
from lenskit.widgets.live_curves import live_curves
from lenskit.widgets.patch_grid import PatchedCell, PatchGrid

__all__ = [
    "AttentionCell",
    "AttentionView",
    "CircuitGraph",
    "FeatureBrowser",
    "FeaturePlace",
    "LensTable",
    "Link",
    "PatchGrid",
    "PatchedCell",
    "Selection",
    "link",
    "live_curves",
]
