"""Head scores: how much each head looks where a previous-token, a duplicate-token or an induction head would look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lenskit.models.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lenskit.models.model import Model

Kind = Literal["previous", "duplicate", "induction"]
KINDS: tuple[Kind, ...] = ("previous", "induction", "duplicate")


def head_scores(run: Run, kind: Kind) -> Tensor:
    """(layer, head): the share of a head's attention that goes where a head of this kind looks, between 0 and 1.

    - `"previous"`: from each token to the one before it.
    - `"duplicate"`: from each token to earlier occurrences of the same token.
    - `"induction"`: from each token to those that followed its earlier occurrences: what comes next if the text
      repeats itself.

    The mean is over the positions that have such a place to look at, in all rows; padding takes no part. Take
    `repeated_tokens` as the prompt: in ordinary text few tokens come twice.

    Raises `KeyError` for a run that did not keep `pattern`, and `ValueError` where no position has such a place.
    Sources: Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021); Olsson et al., "In-context
    Learning and Induction Heads" (2022); the head detector of TransformerLens.

    >>> run = model.run(lk.repeated_tokens(model, 25), keep="pattern")  # doctest: +SKIP
    >>> lk.head_scores(run, "induction").argmax()                      # doctest: +SKIP
    """
    if not target_positions(run.tokens, run.mask, kind):
        raise ValueError(
            f"no position of this prompt has a place where a {kind} head would look: no token comes twice."
        )
    return shares(run["pattern"], run.tokens, run.mask, kind)


def shares(pattern: Tensor, tokens: Tensor, mask: Tensor | None, kind: Kind) -> Tensor:
    """(layer, head): what `head_scores` gives, of patterns (layer, row, head, query, key) that are at hand."""
    target = _targets(tokens, mask, kind)
    rows = target.any(-1)
    share = (pattern * target[None, :, None].to(pattern.device)).sum(-1)
    return (share * rows[None, :, None].to(pattern.device)).sum((1, 3)) / rows.sum()


def target_positions(tokens: Tensor, mask: Tensor | None, kind: Kind) -> int:
    """How many positions have a place where a head of this kind would look."""
    return int(_targets(tokens, mask, kind).any(-1).sum())


def heads_figure(scores: Tensor, name: str = "score") -> go.Figure:
    """One number for each head (layer, head) as a heat map with hover, for a light page and a dark one.

    >>> lk.heads_figure(lk.head_scores(run, "induction"), "induction")  # doctest: +SKIP
    """
    import plotly.graph_objects as go

    values = scores.detach().float().cpu()
    if values.dim() != 2:
        raise ValueError(f"one number for each head is (layer, head); this has shape {tuple(values.shape)}.")
    signed = bool((values < 0).any())
    scale = ["#d9782f", "rgba(128,128,128,0.06)", "#3a86b7"] if signed else ["rgba(58,134,183,0.06)", "#3a86b7"]
    heatmap = go.Heatmap(
        z=values.T.tolist(),
        colorscale=[[i / (len(scale) - 1), colour] for i, colour in enumerate(scale)],
        zmid=0.0 if signed else None,
        zmin=None if signed else 0.0,
        colorbar={"title": name, "outlinewidth": 0, "thickness": 12},
        hovertemplate=f"head %{{x}}.%{{y}}<br>{name} %{{z:.2f}}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    plain = {"showgrid": False, "zeroline": False}
    return go.Figure(heatmap).update_layout(
        xaxis={"title": "layer", **plain},
        yaxis={"title": "head", "autorange": "reversed", **plain},
        height=120 + 20 * values.shape[1],
        margin={"t": 24, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#797c82"},
    )


def repeated_tokens(model: Model, length: int = 25, *, rows: int = 1, repeats: int = 2, seed: int = 0) -> Tensor:
    """(rows, length * repeats): random tokens, the whole of them repeated, the classic prompt for induction heads.

    Special tokens are left out. Raises `ValueError` where the model reads fewer tokens than that.
    """
    context = model.anatomy.context
    if context is not None and length * repeats > context:
        raise ValueError(f"{length} tokens, {repeats} times, are more than the {context:,} that the model reads.")
    special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
    usable = torch.tensor([i for i in range(model.anatomy.vocab) if i not in special])
    chosen = torch.randint(len(usable), (rows, length), generator=torch.Generator().manual_seed(seed))
    return usable[chosen].repeat(1, repeats)


def _targets(tokens: Tensor, mask: Tensor | None, kind: Kind) -> Tensor:
    """(row, query, key): where a head of this kind would look."""
    length = tokens.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril(-1)
    if kind == "previous":
        target = (
            torch.eye(length, dtype=torch.bool, device=tokens.device).roll(-1, 1).tril(-1).expand(len(tokens), -1, -1)
        )
    elif kind in ("duplicate", "induction"):
        target = (tokens[:, :, None] == tokens[:, None, :]) & earlier
        if kind == "induction":
            target = torch.cat([torch.zeros_like(target[..., :1]), target[..., :-1]], -1) & earlier
    else:
        raise ValueError(f"{kind!r} is no kind of head here: 'previous', 'duplicate' or 'induction'.")
    if mask is None:
        return target
    real = mask.bool()
    return target & real[:, :, None] & real[:, None, :]
