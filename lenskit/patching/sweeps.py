"""sweep: which activation carries the answer? The metric after each patch of a grid, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.running.which import Which
from lenskit.patching.align import Pairs
from lenskit.patching.grid import Spans
from lenskit.patching.metrics import Metric
from lenskit.patching.sources import Source
from lenskit.patching.sweeping import Sweeping as Sweeping
from lenskit.patching.swept import Direction
from lenskit.patching.swept import Sweep as Sweep

if TYPE_CHECKING:
    import numpy as np

    from lenskit.models.model import Model


def sweep(
    model: Model,
    clean: Prompt,
    corrupt: Prompt | None = None,
    site: str = "resid_pre",
    metric: Metric | Callable[[Run], Any] | Sequence[Metric] | None = None,
    over: Sequence[str] = ("layer", "pos"),
    *,
    direction: Direction = "denoise",
    source: Source | Literal["zero", "mean"] | None = None,
    layers: Which = None,
    positions: Which = None,
    heads: Which = None,
    neurons: Which = None,
    spans: Spans | None = None,
    window: int = 1,
    align: Pairs | None = None,
    estimate: Sweep | np.ndarray | None = None,
    resume: Sweep | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Sweep:
    """Activation patching: the metric after each patch of a grid, equal to one whole forward for each.

    Only what a patch can change is computed. `model.edits` act in every forward.

    Args:
        model: a `Model`.
        clean, corrupt: two prompts, texts or rows of ids; or two lists of them, several pairs, whose values are then
            (pair, ...). An ablation needs no corrupt prompt; if it has one, the effects are measured by it.
        site: what is patched: resid_pre resid_mid resid_post attn_out mlp_out q k v z pattern scores mlp_pre mlp_post
            attn_in mlp_in.
        metric: `logit_diff prob log_prob rank kl`, or a function of a run that gives a number; or one for each pair.
        over: ("layer", "pos"), ("layer", "span"); with heads ("layer", "head"), ("layer", "head", "pos"); of mlp_pre
            and mlp_post ("layer", "neuron"), ("layer", "neuron", "pos"). What is no axis is patched as a whole.
        direction: "denoise" runs the corrupt prompt and puts clean activations in; "noise" the other way round.
        source: what is put in, instead of the other prompt's activations: "zero", "mean", `Means(prompts)`,
            `Resampled(prompts)`, or `Noised(positions)` for causal tracing.
        layers, positions, heads, neurons: only these.
        spans: named parts of the prompt, {"subject": " Mary", "end": [-1]}.
        window: how many layers each cell patches, around its own.
        align: which positions belong together in prompts of different length, {patched position: source position}.
        estimate: a sweep of estimates, or scores: the strongest cells are computed first.
        resume: a part of this very sweep, to go on from.
        memory: how many bytes it may take; by default what is free.
        progress: called with how many cells are done, and how many there are.

    Raises:
        PromptsDiffer: the prompts do not line up; the message shows where.
        SiteUnavailable: the site does not exist in this architecture.
        ValueError, IndexError, TypeError: what was asked for does not exist, or does not go together.
        MemoryError: it would not fit, with the figure.

    To stop it and go on, or to see it come, use `Sweeping`. Sources: Vig et al., "Causal Mediation Analysis" (2020);
    Meng et al. (ROME, 2022); Wang et al. (2022); Zhang and Nanda, "Best Practices of Activation Patching" (2023).

    >>> sweep(model, clean, corrupt, "z", logit_diff(" Mary", " John"), over=("layer", "head")).best(3)
    ... # doctest: +SKIP
    """
    job = Sweeping(
        model,
        clean,
        corrupt,
        site,
        metric,
        over,
        direction=direction,
        source=source,
        layers=layers,
        positions=positions,
        heads=heads,
        neurons=neurons,
        spans=spans,
        window=window,
        align=align,
        estimate=estimate,
        resume=resume,
        memory=memory,
    )
    return job.run(progress)
