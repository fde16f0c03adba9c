"""Lens: what a hidden state in the middle of the model would say if it were the last one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lenskit.lenses.readout import Columns, read_out
from lenskit.lenses.trajectory import Trajectory
from lenskit.models.batch import Prompt
from lenskit.models.model import Model
from lenskit.models.run import Run
from lenskit.models.sites import Site, SiteLike
from lenskit.models.steps import finish

Target = str | int | Sequence[int] | Tensor | None


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
        """The site it reads in each layer, which fixes the layer convention."""
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

    def __init__(self, model: Model) -> None:
        self.model = model

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        """`h` itself: the logit lens changes nothing. `site` may be any place in the residual stream."""
        name = Site.parse(site).name
        if name not in ("resid_pre", "resid_mid", "resid_post"):
            raise ValueError(f"a lens reads the residual stream: resid_pre, resid_mid or resid_post, not {name!r}.")
        return h

    def read(
        self, prompt: Prompt | Run, *, top_k: int = 10, target: Target = None, row: int | None = None
    ) -> Trajectory:
        """Read every layer at every position: top-k, entropy, KL to the final prediction, and a target's standing.

        Args:
            prompt: what `model.run` takes, or a `Run` that kept this lens's site.
            top_k: how many tokens to keep in each cell.
            target: a text that is one token, a token id, or one id for each position. None, the default: at each
                position the token that the model itself finally predicts there.
            row: which prompt of a batch; may be left out where there is one.

        Memory: the run's own (states and final logits) and about 20 MB, whatever the number of layers.
        Raises what `model.run` raises; `KeyError` for a run that did not keep the site; `ValueError` for a `top_k`
        outside 1..vocab, a batch without `row`, or a target that is not one token.
        """
        return read(self, prompt, top_k=top_k, target=target, row=row)

    def __repr__(self) -> str:
        return f"LogitLens({self.model.name})"


def read(lens: Lens, prompt: Prompt | Run, *, top_k: int, target: Target, row: int | None) -> Trajectory:
    """`read` of every lens: run if need be, transport, and stream the read-out."""
    run = prompt if isinstance(prompt, Run) else lens.model.run(prompt, keep=lens.site)
    states, logits, tokens = _one_row(run, lens.site, row)
    columns = finish(columns_of(lens, states, logits, top_k, target_ids(lens.model, target, tokens)))
    return trajectory_of(lens, tokens.tolist(), columns, run.provenance)


def columns_of(
    lens: Lens, states: Tensor, logits: Tensor, top_k: int, target: Tensor | None
) -> Generator[float, None, Columns]:
    """Read states (layer, pos, d_model) of the lens's site and the model's own logits (pos, vocab), tile by tile."""
    vocab = logits.shape[-1]
    if not 1 <= top_k <= vocab:
        raise ValueError(f"top_k must be between 1 and the vocabulary's {vocab:,}, not {top_k}.")
    with torch.no_grad():
        carried = torch.empty_like(states[:-1])
        for layer, h in enumerate(states[:-1]):
            carried[layer] = lens.transport(h, (lens.site, layer))
    reading = read_out(carried, logits, lens.model.anatomy.tail, top_k, target)
    while True:
        # A generator would leave gradients switched off for whoever runs between two tiles.
        with torch.no_grad():
            try:
                share = next(reading)
            except StopIteration as done:
                return done.value
        yield share


def target_ids(model: Model, target: Target, tokens: Tensor) -> Tensor | None:
    """The target as one id for each position, or None for each position's own final prediction."""
    if target is None:
        return None
    ids = [model.text.token(target)] * len(tokens) if isinstance(target, (str, int)) else [int(i) for i in target]
    if len(ids) != len(tokens):
        raise ValueError(f"{len(ids)} targets for {len(tokens)} positions: give one for each, or one for all.")
    wrong = next((i for i in ids if not 0 <= i < model.anatomy.vocab), None)
    if wrong is not None:
        raise ValueError(f"the target {wrong} is no token: the vocabulary has ids 0 to {model.anatomy.vocab - 1}.")
    return torch.tensor(ids)


def trajectory_of(lens: Lens, tokens: list[int], columns: Columns, provenance: object) -> Trajectory:
    """The value object of what was read."""
    shown = {*tokens, *columns.top_ids.ravel().tolist(), *columns.target_ids.tolist()}
    ids = sorted(shown)
    pieces = dict(zip(ids, lens.model.text.pieces(ids), strict=True))
    return Trajectory.of(columns, tokens, pieces, lens.site, {**dict(provenance), "lens": lens.name})  # pyright: ignore


def _one_row(run: Run, site: str, row: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """States (layer, pos, d_model), logits and tokens of one prompt of a run, without its padding."""
    batch = len(run.tokens)
    if row is None and batch > 1:
        raise ValueError(f"this run has {batch} prompts: say which to read with row=0 to row={batch - 1}.")
    if not -batch <= (row or 0) < batch:
        raise ValueError(f"row {row} does not exist: this run has {batch} prompts.")
    at = row or 0
    real = slice(None) if run.mask is None else run.mask[at].bool()
    return run[site][:, at, real], run.logits[at, real], run.tokens[at, real]
