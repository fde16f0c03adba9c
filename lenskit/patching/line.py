"""Line: the straight line between the token embeddings of two prompts, to run the model on points of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.models.edits import Set
from lenskit.models.finding.probe import same
from lenskit.models.sites import SiteUnavailable

if TYPE_CHECKING:
    from lenskit.models.model import Model


class Line:
    """Runs between two prompts of equal length: at 0 the model reads `base`, at 1 `source`, both (1, pos).

    Raises `SiteUnavailable` where the embeddings are not all that a model knows of its tokens, as measured: the end of
    the line must give the source's own logits.
    """

    def __init__(self, model: Model, base: Tensor, source: Tensor) -> None:
        self._from = model.run(base, keep="embed", stop_at="embed")["embed"]
        there = model.run(source, keep="embed")
        self._way = there["embed"] - self._from
        arrived = model.run(base, edits=Set("embed", there["embed"]))
        if not same(arrived.logits, there.logits):
            raise SiteUnavailable(
                f"no line leads from one prompt to the other in {model.anatomy.family}: it reads the tokens themselves "
                "elsewhere than in its embedding. Take the gradient at the prompt itself."
            )

    def at(self, *shares: float) -> Set:
        """The edit that lets each row of a batch read what lies this share of the way from base to source."""
        there = [self._from + share * self._way for share in shares]
        return Set("embed", torch.cat(there))


def midpoints(steps: int) -> list[float]:
    """Where a sum of so many terms stands for an integral from 0 to 1: the middles of equal parts.

    >>> midpoints(2)
    [0.25, 0.75]
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: a line needs at least one step.")
    return [(n + 0.5) / steps for n in range(steps)]
