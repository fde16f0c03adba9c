"""Lens: what a hidden state in the middle of the model would say if it were the last one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lenskit.lenses.evaluate import evaluate
from lenskit.lenses.generating import generate_from
from lenskit.lenses.lens_directions import lens_directions
from lenskit.lenses.reading import COMPONENTS, read
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike


class Lens(Protocol):
    """Every lens: it carries a hidden state to the final residual; the model's own unembedding does the rest."""

    @property
    def model(self) -> Model:
        """The model it belongs to."""
        ...

    @property
    def name(self) -> str:
        """What to call it in a view: `logit`."""
        ...

    @property
    def site(self) -> str:
        """The site it reads in each layer, which fixes the layer convention: `resid_pre` or `resid_post`.

        A reading's last row is always the model's own prediction. So a lens of `resid_post` has a row for each layer,
        and one of `resid_pre` (a tuned lens) has one more than the model has layers.
        """
        ...

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        """The final residual that `h` (..., d_model), seen at `site`, stands for. Raises where it cannot read there."""
        ...


class LogitLens:
    """The logit lens: a hidden state is read as it is, through the model's own final norm and unembedding.

    It reads `resid_post`, so that its last layer is the model's own prediction.
    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).

    >>> lens = lk.LogitLens(model)  # doctest: +SKIP
    >>> lens.read("The capital of France is").tokens(layer=-1, pos=-1)[0]  # doctest: +SKIP
    ' Paris'
    """

    name = "logit"
    site = "resid_post"

    read = read
    generate = generate_from
    evaluate = evaluate
    directions = lens_directions

    def __init__(self, model: Model) -> None:
        self.model = model

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        """`h` itself: the logit lens changes nothing. `site` is any place in the residual stream, or what is added."""
        name = Site.parse(site).name
        if name not in COMPONENTS:
            raise ValueError(f"a lens reads the residual stream or what is added to it, {COMPONENTS}, not {name!r}.")
        return h

    def __repr__(self) -> str:
        return f"LogitLens({self.model.name})"
