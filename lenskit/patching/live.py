"""LivePatching: a sweep that follows two prompts as they are edited, its estimate first, and single patches between."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lenskit.models.edits import Edit
from lenskit.models.prefix import common_length
from lenskit.models.run import Run
from lenskit.models.sites import HEADED
from lenskit.models.steps import in_steps
from lenskit.patching.align import PromptsDiffer
from lenskit.patching.attribution_patching import estimated
from lenskit.patching.engines.ends import Ends
from lenskit.patching.grid import Choice, Region
from lenskit.patching.metrics import Function, Metric, Rank, scores_of
from lenskit.patching.question import Asked as CheckedAsked
from lenskit.patching.question import Question
from lenskit.patching.sweeping import Sweeping
from lenskit.patching.swept import Direction, Sweep

if TYPE_CHECKING:
    from lenskit.models.model import Model


@dataclass(frozen=True)
class Asked:
    """What a sweep is asked for. It goes over heads where the site has them, and else over positions."""

    clean: str
    corrupt: str
    site: str
    direction: Direction
    metric: Metric

    @property
    def over(self) -> tuple[str, str]:
        """The axes of its grid."""
        return ("layer", "head" if self.site in HEADED else "pos")


@dataclass(frozen=True, eq=False)
class Begun:
    """What is known once both prompts have run, before any patch.

    Attributes:
        sweep: without values: its axes, and the metric on both prompts.
        clean_ids, corrupt_ids: the prompts' tokens, (pos,).
        read: the position at which the metric reads.
        next_ids, next_clean, next_corrupt: the likeliest next tokens there, of either prompt, and their probabilities.
        seconds: how long the exact cells will take, estimated.
    """

    sweep: Sweep
    clean_ids: np.ndarray
    corrupt_ids: np.ndarray
    read: int
    next_ids: np.ndarray
    next_clean: np.ndarray
    next_corrupt: np.ndarray
    seconds: float


@dataclass(frozen=True, eq=False)
class Patched:
    """What one patch did.

    Attributes:
        value: the metric.
        ids, before, after: the likeliest next tokens, without the patch or with it, and their probabilities.
    """

    value: float
    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray


class LivePatching:
    """The live source of a patch grid: it holds the last sweep, goes on with it, and makes single patches meanwhile.

    Its generators yield often, between layers, and may be closed at any yield: nothing is left behind, and what is
    exact by then is kept. Only the way back of the estimate's gradient is one piece.

    >>> live = LivePatching(model)                                        # doctest: +SKIP
    >>> for part in live.sweep(asked):                                    # doctest: +SKIP
    ...     if isinstance(part, Sweep): print(part.done)
    """

    def __init__(self, model: Model, top_k: int = 8) -> None:
        self.model, self.top_k = model, top_k
        self._held: tuple[Asked, tuple[Edit, ...]] | None = None
        self._job: Sweeping | None = None
        self._begun: Begun | None = None
        self._estimated = False

    def holds(self, asked: Asked) -> bool:
        """Whether this question's sweep is here, in part or whole."""
        return self._job is not None and self._held == (asked, self.model.edits)

    def check(self, asked: Asked) -> None:
        """Raise what `sweep` raises for prompts that do not line up, and for a site or metric that does not exist."""
        model = self.model
        rows = [model.batch(prompt).tokens[0].tolist() for prompt in (asked.clean, asked.corrupt)]
        if len(rows[0]) != len(rows[1]):
            raise PromptsDiffer(_first_difference(model, *rows))
        made = CheckedAsked.of(
            model, asked.site, asked.metric, asked.over, asked.direction, None, Choice(), None, has_corrupt=True
        )
        made.metric.read(len(rows[0]))
        model.text.tokens(made.metric.tokens)

    def begun(self, asked: Asked) -> Generator[None, None, Begun]:
        """What is known once both prompts have run. Raises what `sweep` raises."""
        yield from self._prepared(asked)
        assert self._begun is not None
        return self._begun

    def sweep(self, asked: Asked) -> Generator[Begun | Sweep | None, None, Sweep]:
        """Yield what is known first, then the estimate, then the sweep as its cells become exact, and None in between.

        Of a question that was stopped what is exact is kept. Raises what `sweep` raises.
        """
        job = yield from self.estimate(asked)
        yield from job.steps()
        return job.sweep

    def estimate(self, asked: Asked) -> Generator[Begun | Sweep | None, None, Sweeping]:
        """The first part of `sweep`: up to the estimate, which is not exact anywhere. It gives the sweep at work."""
        begun = yield from self.begun(asked)
        job = self._job
        assert job is not None
        yield begun
        # A rank moves in steps, and has no gradient; a reader's own metric may have none.
        if not self._estimated and not isinstance(asked.metric, Rank) and self._has_gradient(job):
            estimate = yield from in_steps(lambda: estimated(job), self.model.anatomy.blocks)
            job.take_estimate(estimate)
        self._estimated = True
        for part in job.steps():  # up to the cells that change nothing, which cost nothing
            yield part
            if part is not None:
                return job
        yield job.sweep
        return job

    def patch(self, asked: Asked, layers: Sequence[int], columns: Sequence[int]) -> Generator[None, None, Patched]:
        """Patch a region of the grid jointly: layers x positions, or layers x heads. Raises what `sweep` raises."""
        job = self._job if self.holds(asked) else None
        if job is None:
            job = yield from in_steps(lambda: self._made(asked), self.model.anatomy.blocks)
        question = next(job.questions())
        read = question.metric.read(question.pair.base.shape[1])
        region = _region(question, layers, columns)
        cell = question.put.cell(asked.site, region, dict.fromkeys(region.layers, region.pos), 0, 0)
        ends: Ends | None = None
        for chunk in question.engine.run([cell], read):
            if chunk is not None:
                ends = chunk.ends
            yield
        assert ends is not None
        with torch.no_grad():
            value = float(question.metric.of(self.model, ends)[0])
            before, after = (self._odds(each) for each in (question.engine.base(read), ends))
        ids = _likeliest(self.top_k, after, before)
        return Patched(value, ids, before[ids].numpy(), after[ids].numpy())

    def _made(self, asked: Asked) -> Sweeping:
        self.check(asked)
        return Sweeping(
            self.model, asked.clean, asked.corrupt, asked.site, asked.metric, asked.over, direction=asked.direction
        )

    def _prepared(self, asked: Asked) -> Generator[None, None, None]:
        if not self.holds(asked):
            edits = self.model.edits
            job = yield from in_steps(lambda: self._made(asked), self.model.anatomy.blocks)
            self._begun = self._begin(asked, job)
            self._job, self._held, self._estimated = job, (asked, edits), False

    def _begin(self, asked: Asked, job: Sweeping) -> Begun:
        question = next(job.questions())
        read = question.metric.read(question.pair.base.shape[1])
        assert question.other_ends is not None
        with torch.no_grad():
            base, other = self._odds(question.engine.base(read)), self._odds(question.other_ends)
        (own, others), straight = question.pair.ids, question.pair.base_is_clean
        clean, corrupt = (base, other) if straight else (other, base)
        shown = _likeliest(self.top_k, clean, corrupt, also=self.model.text.tokens(asked.metric.tokens))
        return Begun(
            job.sweep,
            clean_ids=np.array(own if straight else others),
            corrupt_ids=np.array(others if straight else own),
            read=read[-1],
            next_ids=shown,
            next_clean=clean[shown].numpy(),
            next_corrupt=corrupt[shown].numpy(),
            seconds=job.cost.seconds,
        )

    def _odds(self, ends: Ends) -> Tensor:
        """The probabilities (vocab,) of the next token, where the metric reads last."""
        return scores_of(self.model, ends)[0, -1].softmax(-1).cpu()

    def _has_gradient(self, job: Sweeping) -> bool:
        """Whether the metric follows the logits: a reader's own function may leave the graph, with `.item()`, say."""
        question = next(job.questions())
        if not isinstance(question.metric, Function):
            return True
        ends = question.engine.base(question.metric.read(question.pair.base.shape[1]))
        logits = scores_of(self.model, ends).detach().requires_grad_()
        run = Run(logits, question.pair.base, None, {}, self.model.origin(self.model.edits), self.model.text)
        with torch.enable_grad():
            made = question.metric.differentiable(run)
        return isinstance(made, Tensor) and made.requires_grad


def _first_difference(model: Model, clean: list[int], corrupt: list[int]) -> str:
    at = common_length(clean, corrupt)
    ends = [model.text.str_tokens(row[at : at + 1]) for row in (clean, corrupt)]
    words = [f'"{tokens[0]}"' if tokens else "its end" for tokens in ends]
    return (
        f"the prompts do not line up: the clean one has {len(clean)} tokens, the corrupt one {len(corrupt)}. They "
        f"first differ at position {at}: {words[0]} in the clean one, {words[1]} in the corrupt one. Edit one of "
        "them until both have as many tokens."
    )


def _region(question: Question, layers: Sequence[int], columns: Sequence[int]) -> Region:
    over = question.grid.axes[1]
    for name, chosen, there in (
        ("layers", layers, question.grid.axes[0].ticks),
        (f"{over.name}s", columns, over.ticks),
    ):
        if not chosen or not set(chosen) <= set(there):
            raise IndexError(f"{name} {[*chosen]}: this grid has {name} {there[0]} to {there[-1]}.")
    if over.name == "head":
        return Region(tuple(layers), question.grid.pos, tuple(columns))
    return Region(tuple(layers), tuple(columns))


def _likeliest(k: int, first: Tensor, second: Tensor, also: Sequence[int] = ()) -> np.ndarray:
    """The ids of the k likeliest tokens of either prediction, and of those named, the likeliest first."""
    peak = torch.maximum(first, second)
    chosen = {*first.topk(min(k, len(first))).indices.tolist(), *second.topk(min(k, len(second))).indices.tolist()}
    ids = sorted(chosen, key=lambda i: -float(peak[i]))[:k]
    ids += [i for i in dict.fromkeys(also) if i not in ids]
    return np.array(ids, dtype=np.int64)
