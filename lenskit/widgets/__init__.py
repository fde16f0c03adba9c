"""Floor 4: the live views. Each shows a value object, and asks a live source for a new one.

>>> import lenskit as lk
>>> lk.widgets.LensTable(lk.load("demo"), "The capital of France is")  # doctest: +SKIP
"""

from lenskit.widgets.lens_table import LensTable, Selection

__all__ = ["LensTable", "Selection"]
