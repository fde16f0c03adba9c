"""attribution: a whole sweep estimated from gradients, for the price of a few forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.running.which import Which
from lenskit.models.sites import HEADED, axes_of
from lenskit.patching.align import Pairs
from lenskit.patching.grid import NEURONS, Grid, Spans
from lenskit.patching.metrics import Metric
from lenskit.patching.slopes import Slope, Way, along_the_activations, along_the_inputs, at_the_prompt
from lenskit.patching.sweeping import Sweeping
from lenskit.patching.swept import Direction, Sweep

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.patching.question import Question

Method = Literal["gradient", "ig", "ig_activations"]


def attribution(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    site: str = "resid_pre",
    metric: Metric | Callable[[Run], Any] | Sequence[Metric] | None = None,
    over: Sequence[str] = ("layer", "pos"),
    *,
    method: Method = "gradient",
    steps: int = 10,
    direction: Direction = "denoise",
    layers: Which = None,
    positions: Which = None,
    heads: Which = None,
    neurons: Which = None,
    spans: Spans | None = None,
    align: Pairs | None = None,
) -> Sweep:
    """Attribution patching: what `sweep` would give, estimated for all cells at once from gradients.

    The estimate of a cell is the metric of the patched prompt, plus how far the source's activation is from its own
    times the gradient there, summed over what the cell covers. It is first-order: good where a patch moves things
    little, poor where it saturates a softmax or a norm (early `resid_pre`, say). `estimate.correlation(exact)` measures
    it, `sweep(..., estimate=estimate)` computes the strongest cells first.

    Args:
        model, clean, corrupt, site, metric, over, direction, layers, positions, heads, neurons, spans, align: as in
            `sweep`. The metric must have a gradient: `rank` has none.
        method: "gradient", at the patched prompt itself: one forward and backward, beside one forward of each prompt.
            "ig", the gradients' mean over points of the straight line between the two prompts' token embeddings;
            "ig_activations", over that between the site's own activations, all of one layer together: over a whole
            layer these sum to the exact effect of patching it whole, as `steps` grows.
        steps: how many points, by the midpoint rule; each is a forward and backward (for "ig_activations", from each
            layer on).

    Gives a `Sweep` none of whose values is exact. Memory: the site in all layers, and its gradients.

    Raises what `sweep` raises; `ValueError` where no gradient can be taken, `TypeError` for a metric that has none,
    `SiteUnavailable` where "ig" cannot go from one prompt to the other.

    Sources: Nanda, "Attribution Patching" (2023); Kramar et al., "AtP*" (2024); Sundararajan et al., "Axiomatic
    Attribution for Deep Networks" (2017); Hanna et al., "Have Faith in Faithfulness" (2024).

    >>> estimate = attribution(model, clean, corrupt, "z", metric, ("layer", "head"))       # doctest: +SKIP
    >>> estimate.correlation(sweep(model, clean, corrupt, "z", metric, ("layer", "head")))  # doctest: +SKIP
    """
    job = Sweeping(
        model,
        clean,
        corrupt,
        site,
        metric,
        over,
        direction=direction,
        layers=layers,
        positions=positions,
        heads=heads,
        neurons=neurons,
        spans=spans,
        align=align,
    )
    return estimated(job, method, steps)


def estimated(job: Sweeping, method: Method = "gradient", steps: int = 10) -> Sweep:
    """The estimate of a sweep that is about to be computed; its prompts need not be run again.

    Raises `ValueError` for what has no such estimate: cells over several layers at once, whose effects do not add up,
    and sources that are drawn at random.
    """
    if method not in ("gradient", "ig", "ig_activations"):
        raise ValueError(f"method={method!r}: an estimate is by 'gradient', 'ig' or 'ig_activations'.")
    values = np.stack([_values(question, method, steps) for question in job.questions()])
    whole = job.sweep
    how = {"method": method} if method == "gradient" else {"method": method, "steps": steps}
    return replace(
        whole,
        values=values.reshape(whole.values.shape),
        exact=np.zeros(whole.values.shape, dtype=bool),
        engine=None,
        why=None,
        provenance={**whole.provenance, "estimate": how},
    )


def _values(question: Question, method: Method, steps: int) -> np.ndarray:
    """(cell, ...) in the grid's shape: the estimated metric."""
    grid, values = question.grid, np.empty(question.grid.shape)
    ticks = grid.axes[0].ticks
    for slope in _slopes(question, method, steps):
        effects = _by_place(grid.site, slope.difference * slope.grad).double().cpu().numpy()
        values[ticks.index(slope.layer)] = question.base + _in_cells(effects, grid)
    return values


def _slopes(question: Question, method: Method, steps: int) -> Iterator[Slope]:
    asked, pair, put = question.asked, question.pair, question.put
    if asked.choice.window != 1:
        raise ValueError("a patch of several layers at once has no gradient estimate: ask for window=1.")
    if put.draws != 1 or put.noise:
        raise ValueError("a gradient estimate needs one value for each activation: a source that draws has several.")
    way = Way(asked.model, pair.base, question.metric, asked.site, asked.needed, put.sheets[0], pair.aligned.base)
    if method == "gradient":
        return at_the_prompt(way)
    if method == "ig_activations":
        return along_the_activations(way, steps)
    if asked.source is not None or pair.other is None or not pair.aligned.is_plain:
        raise ValueError("'ig' goes from one prompt to another of its length, position by position: use 'gradient'.")
    return along_the_inputs(way, pair.other, steps)


def _by_place(site: str, effect: Tensor) -> Tensor:
    """(pos, part): summed up but for positions, and heads or neurons, where the site has such."""
    if axes_of(site).pos == 2:
        return effect.sum(-1).T
    if site in NEURONS:
        return effect
    return effect.sum(-1) if site in HEADED else effect.sum(-1, keepdim=True)


def _in_cells(effects: np.ndarray, grid: Grid) -> np.ndarray:
    """The cells of one layer, from what each (pos, part) contributes."""
    over = {axis.name: list(axis.ticks) for axis in grid.axes[1:]}
    chosen = grid.heads if grid.heads is not None else grid.neurons
    parts = over.get("head") or over.get("neuron")
    if parts is not None:
        effects = effects[:, parts]
    else:
        effects = (effects if chosen is None else effects[:, list(chosen)]).sum(1, keepdims=True)
    if "pos" in over:
        effects = effects[over["pos"]]
    elif "span" in over:
        effects = np.stack([effects[list(grid.spans[span])].sum(0) for span in over["span"]])
    else:
        effects = effects[list(grid.pos)].sum(0, keepdims=True)
    return effects.T.reshape(grid.shape[1:])
