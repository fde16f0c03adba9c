"""The spec of a lens table: its keys, and what each may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lenskit.lenses.statistic import STATISTICS

VIEWS = ("one", "side", "difference")
CELLS = tuple(name for name in STATISTICS if name != "loss")
"""What colours the cells of one reading. A prompt that is being typed has no next token, so no `loss`."""
DIFFERENCES = (
    "js",
    "kl",
    "total_variation",
    "largest_change",
    "target_probability",
    "target_log_prob",
    "entropy",
    "rank",
)
"""What colours a difference: measures between whole predictions, and the second's value less the first's."""
HOWS = ("steer", "swap", "ablate")
"""What can be done along a token's direction in the lens."""

DEFAULTS: dict[str, Any] = {
    "v": 1,
    "prompt": "",
    "lens": "logit",
    "statistic": "probability",
    "target": None,
    "versus": None,
    "second": None,
    "other": None,
    "view": "one",
    "difference": "js",
    "order": "last-first",
    "selection": None,
    "to": None,
    "scale": None,
    "cells": "tokens",
    "written": [],
    "act": None,
}
_CHOICES = {
    "statistic": CELLS,
    "order": ("last-first", "first-first"),
    "view": VIEWS,
    "difference": DIFFERENCES,
    "cells": ("tokens", "words", "numbers"),
}
_ACT = ("how", "token", "with", "strength", "layers", "pos")


def checked(given: Mapping[str, Any], lenses: Collection[str]) -> dict[str, Any]:
    """The whole spec: what is left out takes its default, so that one saved by an older version still works.

    Raises ValueError for a key or a value that there is not.
    """
    spec = {**DEFAULTS, **given}
    unknown = sorted(set(spec) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"a spec has the keys {', '.join(DEFAULTS)}; this has also {', '.join(unknown)}.")
    for key, choices in _CHOICES.items():
        if spec[key] not in choices:
            raise ValueError(f"{key} is one of {', '.join(choices)}, not {spec[key]!r}.")
    for key, may_be_none in (("lens", False), ("second", True)):
        if spec[key] not in lenses and not (may_be_none and spec[key] is None):
            raise ValueError(f"{key} is one of this table's lenses, {', '.join(lenses)}, not {spec[key]!r}.")
    for key, may_be_none in (("prompt", False), ("other", True)):
        if not (isinstance(spec[key], str) or (may_be_none and spec[key] is None)):
            raise ValueError(f"the {key} is a text, not a {type(spec[key]).__name__}.")
    _check_comparison(spec)
    for name in ("selection", "to"):
        cell = spec[name]
        if cell is not None and not (isinstance(cell, dict) and set(cell) == {"layer", "pos"}):
            raise ValueError(f"the {name} of a spec is null or {{'layer': …, 'pos': …}}, not {cell!r}.")
    written = spec["written"]
    if not (isinstance(written, list) and all(isinstance(i, int) and i >= 0 for i in written)):
        raise ValueError(f"what was written after the prompt is a list of token ids, not {written!r}.")
    act = spec["act"]
    if act is not None and not (isinstance(act, dict) and set(act) == set(_ACT) and act["how"] in HOWS):
        raise ValueError(f"the act of a spec is null or has the keys {', '.join(_ACT)}, not {act!r}.")
    return spec


def _check_comparison(spec: Mapping[str, Any]) -> None:
    if spec["second"] is not None and spec["other"] is not None:
        raise ValueError(
            "give second, another lens, or other, another prompt, and not both: nobody could say which of the two a "
            "difference comes from."
        )
    if spec["second"] == spec["lens"]:
        raise ValueError(f"second is the lens itself, {spec['lens']!r}: give another one.")
    if spec["view"] != "one" and spec["second"] is None and spec["other"] is None:
        raise ValueError(f"view {spec['view']!r} compares: give second, another lens, or other, another prompt.")
    if spec["versus"] is None and spec["statistic"].startswith("log_prob_difference"):
        raise ValueError(f"{spec['statistic']} is between two targets: give versus, the second one.")
