"""The spec and the facts of a patch grid, as `widgets/WIRE.md` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets

from lenskit.models.sites import HEADED
from lenskit.widgets.patch_wire import QUESTION
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.model import Model

_SITES = ("resid_pre", "attn_out", "mlp_out", "z")
_CHOICES = {
    "direction": ("denoise", "noise"),
    "metric": ("logit_diff", "prob", "log_prob", "rank", "kl", "given"),
}
_KEYS = ("v", *QUESTION, "selection", "to", "tried", "scale")
FIELDS = ("layer", "pos", "head")


def checked(proposed: Mapping[str, Any]) -> dict[str, Any]:
    """A spec that somebody wrote. Raises `TraitError` for a key or a value that does not exist."""
    spec = dict(proposed)
    if not spec:
        return spec
    if wrong := set(spec) ^ set(_KEYS):
        raise traitlets.TraitError(f"a spec has exactly the keys {', '.join(_KEYS)}; this differs in {sorted(wrong)}.")
    for key, choices in _CHOICES.items():
        if spec[key] not in choices:
            raise traitlets.TraitError(f"{key} is one of {', '.join(choices)}, not {spec[key]!r}.")
    for key in ("clean", "corrupt", "site"):
        if not isinstance(spec[key], str):
            raise traitlets.TraitError(f"{key} is a text, not a {type(spec[key]).__name__}.")
    for key in ("selection", "to"):
        cell = spec[key]
        if cell is not None and not (isinstance(cell, dict) and set(cell) == set(FIELDS)):
            raise traitlets.TraitError(
                f"the {key} of a spec is null or has exactly {', '.join(FIELDS)}; this is {cell!r}."
            )
    return spec


def facts_of(model: Model, site: str) -> dict[str, Any]:
    """What is being looked at, which does not change while the widget lives."""
    there = [name for name in _SITES if name in model.sites or model.sites.layers.get(name)]
    return {
        "v": VERSION,
        "live": True,
        "title": "Patching",
        "model": model.name,
        "layers": model.n_layers,
        "sites": [*there, *([] if site in there else [site])],
        "headed": list(HEADED),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
