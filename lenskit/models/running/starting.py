"""Starting: a forward that begins at a layer, with a residual that somebody gives."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from torch import Tensor

from lenskit.models.batch import Batch
from lenskit.models.running.plan import Plan
from lenskit.models.sites import Site
from lenskit.models.taps import skipped

if TYPE_CHECKING:
    from lenskit.models.model import Model


def starting(
    model: Model, plan: Plan, batch: Batch, layer: int | None, resid: Tensor | None
) -> AbstractContextManager[None]:
    """Let `resid` (batch, pos, d_model) enter a layer; while the context lasts, the blocks before it are left out.

    Raises `TypeError` where one of the two is missing, `ValueError` for a layer that does not exist and a residual that
    does not fit the batch, and `SiteUnavailable` where a forward of this model cannot begin there.
    """
    anatomy = model.anatomy
    if not anatomy.is_language_model:
        anatomy.spot(Site("resid_pre", 0))  # raises with the reason
    if layer is None or resid is None:
        raise TypeError("running on from a residual needs both: the layer, start_at=5, and what enters it, resid=h.")
    if not 0 <= layer < model.n_layers:
        raise ValueError(f"start_at={layer} does not exist: this model has layers 0 to {model.n_layers - 1}.")
    if resid.shape[:-1] != batch.tokens.shape:
        raise ValueError(
            f"resid has shape {tuple(resid.shape)}, and this prompt needs (batch, pos, d_model) with "
            f"{tuple(batch.tokens.shape)} in front."
        )
    anatomy.check_start(layer)
    plan.begin(layer, resid.to(model.device, model.dtype))
    return skipped({block: anatomy.probe.form(block) for block in anatomy.blocks[:layer]})
