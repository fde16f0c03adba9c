"""The dictionaries that come with lenskit: transcoders of some MLPs of the demo model, trained on its own text."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from lenskit.models.files.load_error import LoadError

_NAMED = re.compile(r"demo(?:/(\d+))?")


def demo_path(where: str) -> Path | None:
    """What `"demo"`, all of them, or `"demo/20"`, that of one layer, means; None for any other name.

    Raises `LoadError` for a layer that has none.
    """
    named = _NAMED.fullmatch(where)
    if named is None:
        return None
    folder = Path(str(files("lenskit.transcoders") / "demo"))
    if named[1] is None:
        return folder
    path = folder / f"layer_{named[1]}.safetensors"
    if not path.exists():
        layers = sorted(int(each.stem.removeprefix("layer_")) for each in folder.glob("layer_*.safetensors"))
        there = ", ".join(f'"demo/{layer}"' for layer in layers) or "none"
        raise LoadError(f"No dictionary of the demo model comes for layer {named[1]}: there is {there}.")
    return path
