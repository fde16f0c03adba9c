"""Reading: a prompt through a lens, from the run to the trajectory."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.lenses.readout import Asked, Columns, read_out
from lenskit.lenses.trajectory import Trajectory
from lenskit.lenses.word_like import word_like
from lenskit.models.batch import Prompt
from lenskit.models.model import Model
from lenskit.models.run import Run
from lenskit.models.sites import Site
from lenskit.models.steps import finish

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens

Target = str | int | Sequence[int] | Tensor | None

COMPONENTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""What a lens can read: the residual stream, and what is added to it."""


def read(
    lens: Lens,
    prompt: Prompt | Run,
    *,
    top_k: int = 10,
    target: Target = None,
    versus: Target = None,
    row: int | None = None,
    site: str | None = None,
    mask_input: bool = False,
    words: bool = False,
) -> Trajectory:
    """Read every layer at every position: top-k, entropy, KL to the final prediction, and a target's standing.

    Args:
        prompt: what `model.run` takes, or a `Run` that kept the site.
        top_k: how many tokens to keep in each cell.
        target: a text that is one token, a token id, or one id for each position. None, the default: at each
            position the token that the model itself finally predicts there.
        versus: a second target, for the difference of the two log-probabilities.
        row: which prompt of a batch; may be left out where there is one.
        site: what to read in each layer; by default the lens's own site. `resid_pre`, `resid_mid`, `resid_post`, or
            what a block adds: `attn_out`, `mlp_out`. The last row is always the model's own prediction.
        mask_input: leave the prompt's own tokens out of every prediction, as if they could not come.
        words: keep only tokens that read as words among the top, see `word_like`. Their probabilities, the ranks and
            every statistic stay those of the whole vocabulary, and the last row's first token is the model's own.

    Memory: the run's own (states and final logits) and about 20 MB, whatever the number of layers.
    Raises what `model.run` raises; `KeyError` for a run that did not keep the site; `ValueError` for a `top_k`
    outside 1..vocab, a batch without `row`, a site that the lens cannot read, or a target that is not one token.
    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens" (2023).

    >>> lens.read("The capital of France is", target=" Paris", versus=" London")  # doctest: +SKIP
    """
    run = prompt if isinstance(prompt, Run) else lens.model.run(prompt, keep=site or lens.site)
    states, logits, tokens = one_row(run, lens, row, site)
    asked = Asked(
        top_k,
        target_ids(lens.model, target, tokens),
        target_ids(lens.model, versus, tokens),
        following(tokens),
        tokens.unique() if mask_input else None,
        word_like(lens.model) if words else None,
    )
    columns = finish(columns_of(lens, states, logits, asked, site))
    said = {name: True for name, on in (("mask_input", mask_input), ("words", words)) if on}
    return trajectory_of(lens, tokens.tolist(), columns, run.provenance | said, site)


def rows_of(lens: Lens, site: str | None = None) -> list[Site]:
    """Where each row of a reading comes from: the site layer by layer, and the final residual as the last.

    A lens that cannot read every layer has `layers_at(site)`, which gives those it can: it has rows for those only.
    """
    name, last = site or lens.site, lens.model.n_layers - 1
    if name not in COMPONENTS:
        raise ValueError(f"a lens reads the residual stream or what is added to it, not {name!r}: {_LISTED}.")
    layers: Sequence[int] = range(last if name == "resid_post" else last + 1)
    if (layers_at := getattr(lens, "layers_at", None)) is not None:
        layers = sorted(set(layers) & set(layers_at(name)))
    return [*(Site(name, layer) for layer in layers), Site("resid_post", last)]


_LISTED = ", ".join(COMPONENTS)


def of_rows(states: Tensor, rows: Sequence[Site]) -> Tensor:
    """Of states in all layers (layer, ...), those that rows come from: a view where these are the first ones."""
    layers = [site.layer for site in rows]
    return states[: len(layers)] if layers == list(range(len(layers))) else states[layers]


def numbers_of(rows: Sequence[Site], model: Model) -> list[int]:
    """The number of each row of `rows_of`: its layer's; the model's own prediction counts on where it is one more."""
    before = [site.layer for site in rows[:-1] if site.layer is not None]
    own = model.n_layers - (not rows[:-1] or rows[0].name == "resid_post")
    return [*before, own]


def columns_of(
    lens: Lens,
    states: Tensor,
    logits: Tensor,
    asked: Asked,
    site: str | None = None,
    rows: Sequence[Site] | None = None,
) -> Generator[float, None, Columns]:
    """Read states (row, pos, d_model), those of `rows_of` but the last, and the model's own logits (pos, vocab).

    `rows` are some of those of `rows_of`, where not all are read. Yields the share done after each tile.
    """
    vocab = logits.shape[-1] - (0 if asked.exclude is None else len(asked.exclude))
    if not 1 <= asked.top_k <= vocab:
        raise ValueError(f"top_k must be between 1 and the vocabulary's {vocab:,}, not {asked.top_k}.")
    if asked.shown is not None and asked.top_k > (words := int(asked.shown.sum())):
        raise ValueError(f"top_k must be between 1 and the vocabulary's {words:,} words, not {asked.top_k}.")
    with torch.no_grad():
        carried = carry(lens, states, (rows_of(lens, site) if rows is None else rows)[:-1])
    reading = read_out(carried, logits, lens.model.anatomy.tail, asked)
    while True:
        # A generator would leave gradients switched off for whoever runs between two tiles.
        with torch.no_grad():
            try:
                share = next(reading)
            except StopIteration as done:
                return done.value
        yield share


def carry(lens: Lens, states: Tensor, sites: Sequence[Site]) -> Tensor:
    """States (row, ..., d_model), each seen at its site, carried to the final residual."""
    carried = torch.empty_like(states)
    for row, (h, site) in enumerate(zip(states, sites, strict=True)):
        carried[row] = lens.transport(h, site)
    return carried


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


def following(tokens: Tensor) -> Tensor:
    """(pos,) the token that follows each; -1 after the last."""
    return torch.cat([tokens[1:], tokens.new_full((1,), -1)])


def trajectory_of(
    lens: Lens,
    tokens: list[int],
    columns: Columns,
    provenance: Mapping[str, Any],
    site: str | None = None,
    rows: Sequence[Site] | None = None,
) -> Trajectory:
    """The value object of what was read, at all rows or some."""
    shown = {*tokens, *columns.top_ids.ravel().tolist(), *columns.target_ids.tolist()}
    shown |= set() if columns.versus_ids is None else set(columns.versus_ids.tolist())
    ids = sorted(shown)
    pieces = dict(zip(ids, lens.model.text.pieces(ids), strict=True))
    numbers = numbers_of(rows_of(lens, site) if rows is None else rows, lens.model)
    return Trajectory.of(columns, tokens, pieces, site or lens.site, {**provenance, "lens": lens.name}, numbers)


def one_row(run: Run, lens: Lens, row: int | None, site: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What to carry (row, pos, d_model), logits and tokens of one prompt of a run, without its padding."""
    batch, rows = len(run.tokens), rows_of(lens, site)
    if row is None and batch > 1:
        raise ValueError(f"this run has {batch} prompts: say which to read with row=0 to row={batch - 1}.")
    if not -batch <= (row or 0) < batch:
        raise ValueError(f"row {row} does not exist: this run has {batch} prompts.")
    at = row or 0
    real = slice(None) if run.mask is None else run.mask[at].bool()
    states = of_rows(run[site or lens.site][:, at, real], rows[:-1])
    return states, run.logits[at, real], run.tokens[at, real]
