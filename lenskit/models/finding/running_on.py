"""Running on: whether the blocks hand on nothing but the residual stream, so that a forward can begin among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lenskit.models.finding.probe import same
from lenskit.models.sites import Site
from lenskit.models.taps import skipped, tapped

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy


def no_running_on(anatomy: Anatomy, layer: int) -> str | None:
    """Why a forward cannot begin at this layer, or None where the probe's own residual there gives its own logits."""
    probe = anatomy.probe
    before = anatomy.blocks[:layer]
    point = anatomy.spot(Site("resid_pre", layer)).point
    resid = probe.residuals(anatomy.blocks[layer])[0]
    try:
        with (
            skipped({block: probe.form(block) for block in before}),
            tapped({point: lambda _: resid.clone()}),
            anatomy.eagerly(),
            torch.no_grad(),
        ):
            logits = anatomy.model(input_ids=probe.tokens).logits
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as error:  # this is the finding
        return f"the blocks before it hand on more than the residual stream ({type(error).__name__}: {error})"
    return None if same(logits, probe.logits) else "the blocks before it hand on more than the residual stream"
