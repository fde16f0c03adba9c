"""The spec and the facts of a feature browser, and what is chosen in it, as `widgets/WIRE.md` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.transcoders.index.feature_index import FeatureIndex

FIELDS = ("feature", "pos")
SORTS = ("number", "density", "max", "peakedness", "prompt", "token")
_CHOICES = {
    "by": ("promotes", "fires"),
    "only": ("all", "pinned"),
    "sort": SORTS,
    "order": ("down", "up"),
}
DEFAULT: dict[str, Any] = {
    "v": VERSION,
    "prompt": "",
    "find": "",
    "by": "promotes",
    "only": "all",
    "sort": "peakedness",
    "order": "down",
    "selection": None,
    "band": None,
    "window": 8,
    "fit": False,
    "steer": {"by": "scale", "amount": 1},
    "pinned": [],
    "notes": {},
}


class FeaturePlace(NamedTuple):
    """What is chosen: a feature, and a token of the prompt, or None where none is.

    >>> FeaturePlace(1144, pos=7).feature
    1144
    """

    feature: int
    pos: int | None = None


def checked(proposed: Mapping[str, Any], n_features: int) -> dict[str, Any]:
    """A spec that somebody wrote, whole: what is left out takes its default.

    Raises `TraitError` for a key or a value that does not exist.
    """
    spec = {**DEFAULT, **proposed}
    if unknown := set(spec) - set(DEFAULT):
        raise traitlets.TraitError(f"a spec has the keys {', '.join(DEFAULT)}, and no {sorted(unknown)}.")
    for key, choices in _CHOICES.items():
        if spec[key] not in choices:
            raise traitlets.TraitError(f"{key} is one of {', '.join(choices)}, not {spec[key]!r}.")
    for key in ("prompt", "find"):
        if not isinstance(spec[key], str):
            raise traitlets.TraitError(f"{key} is a text, not a {type(spec[key]).__name__}.")
    for key in ("band", "window"):
        if spec[key] is not None and not _is_count(spec[key]):
            raise traitlets.TraitError(f"{key} is null or a number from 0, not {spec[key]!r}.")
    cell = spec["selection"]
    if cell is not None and not (isinstance(cell, Mapping) and set(cell) == set(FIELDS)):
        raise traitlets.TraitError(f"the selection of a spec is null or has exactly {', '.join(FIELDS)}; not {cell!r}.")
    if not isinstance(spec["fit"], bool):
        raise traitlets.TraitError(f"fit is true or false, not {spec['fit']!r}.")
    _check_steer(spec["steer"])
    named = [*spec["pinned"], *map(int, _numbers(spec["notes"])), *([] if cell is None else [cell["feature"]])]
    for feature in named:
        if not _is_count(feature) or feature >= n_features:
            raise traitlets.TraitError(f"feature {feature!r} does not exist: there are features 0 to {n_features - 1}.")
    return spec


def place_of(value: Any, n_features: int, length: int) -> FeaturePlace:
    """The place that a person means, counted from 0; `length` is the prompt's. Raises `TraitError` for what is none."""
    if isinstance(value, Mapping):
        value = tuple(value.get(name) for name in FIELDS)
    given = (value,) if isinstance(value, int) else value
    if not (isinstance(given, Sequence) and 0 < len(given) < 3 and isinstance(given[0], int)):
        raise traitlets.TraitError(f"a selection is None, a feature, (feature, pos) or a FeaturePlace, not {value!r}.")
    feature, pos = FeaturePlace(*given)
    if not -n_features <= feature < n_features:
        raise traitlets.TraitError(f"feature {feature} does not exist: there are features 0 to {n_features - 1}.")
    if pos is not None and not (isinstance(pos, int) and -length <= pos < length):
        raise traitlets.TraitError(f"position {pos!r} does not exist: the prompt has {length} tokens.")
    return FeaturePlace(feature % n_features, None if pos is None else pos % length)


def facts_of(index: FeatureIndex, model: Model | None) -> dict[str, Any]:
    """What is being looked at, which does not change while the widget lives."""
    layer = index.reads.layer
    return {
        "v": VERSION,
        "live": True,
        "title": "Features",
        "model": None if model is None else model.name,
        "about": _about(index),
        "unit": index.unit,
        "prefix": "" if layer is None else f"{layer}.",
        "features": index.n_features,
        "tokens": index.tokens,
        "dtype": "" if model is None else str(model.dtype).removeprefix("torch."),
        "device": "" if model is None else str(model.device),
    }


def _about(index: FeatureIndex) -> str:
    """What is looked at: `mlp_post.20`, or `mlp_in.15 → mlp_out.15`."""
    if index.is_neurons:
        return index.basis_name.removeprefix("neurons of ")
    sites = [str(site) for site in index.writes]
    writes = sites[0] if len(sites) == 1 else f"{sites[0]} … {sites[-1]}"
    return writes if index.writes == (index.reads,) else f"{index.reads} → {writes}"


def _check_steer(steer: Any) -> None:
    right = isinstance(steer, Mapping) and set(steer) == {"by", "amount"} and steer["by"] in ("scale", "add")
    if not right or not isinstance(steer["amount"], int | float):
        raise traitlets.TraitError(f"steer is {{'by': 'scale' or 'add', 'amount': a number}}, not {steer!r}.")


def _numbers(notes: Any) -> list[str]:
    if not isinstance(notes, Mapping) or not all(str(key).isdecimal() for key in notes):
        raise traitlets.TraitError(f"notes are texts by the number of a feature, not {notes!r}.")
    return [str(key) for key in notes]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
