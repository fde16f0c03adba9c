"""Sweeping: a sweep at work: it can be asked what it will cost, watched, stopped, and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lenskit.models.batch import Prompt
from lenskit.models.memory import free_bytes
from lenskit.models.run import Run
from lenskit.models.running.which import Which
from lenskit.patching.align import Pairs
from lenskit.patching.engine import BUDGET, Cost
from lenskit.patching.grid import Choice, Spans
from lenskit.patching.memory import check_memory, kept_bytes
from lenskit.patching.metrics import Metric
from lenskit.patching.question import Asked, Pair, Question
from lenskit.patching.sources import Source
from lenskit.patching.swept import Axis, Direction, Sweep

if TYPE_CHECKING:
    from lenskit.models.model import Model

# How many cells are made at once, and looked at for an estimate; the engine has its own portions.
_AT_ONCE = 1024


class Sweeping:
    """A sweep as a job. The arguments are those of `sweep`; making one runs the prompts, and no cell.

    >>> job = Sweeping(model, clean, corrupt, metric=logit_diff(" Mary", " John"))  # doctest: +SKIP
    >>> job.cost                                                                    # doctest: +SKIP
    Cost(rows=6675, seconds=1.9, bytes=17187840)
    >>> job.run()       # Ctrl+C keeps what is done: job.sweep shows it, and job.run() goes on  # doctest: +SKIP
    """

    def __init__(
        self,
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
    ) -> None:
        if metric is None:
            raise TypeError("a sweep measures something: metric=logit_diff(' Mary', ' John'), prob(' Mary'), kl(), ...")
        choice = Choice(layers, positions, heads, neurons, spans, window)
        cleans, corrupts, self._several = _pairs(model, clean, corrupt)
        metrics = list(metric) if isinstance(metric, Sequence) else [metric] * len(cleans)
        if len(metrics) != len(cleans):
            raise ValueError(
                f"{len(metrics)} metrics for {len(cleans)} pairs of prompts: give one, or one for each pair."
            )
        self.model, self._edits, self._memory = model, model.edits, memory
        self._asked = [
            Asked.of(model, site, each, over, direction, source, choice, align, corrupt is not None) for each in metrics
        ]
        pairs = zip(self._asked, cleans, corrupts, strict=True)
        self._pairs = [Pair.of(asked, one, other) for asked, one, other in pairs]
        longest = max(pair.base.shape[1] for pair in self._pairs)
        self._keeps = kept_bytes(model, site, len(self._asked[0].needed), longest)
        check_memory(model, self._keeps, memory, f"the {site!r} of all layers swept")
        self._current: tuple[int, Question] | None = None
        self._engine: tuple[str, str | None] | None = None
        question = self._question(0)
        self._check_lengths(question)
        self._axes, self._draws = question.grid.axes, question.put.draws
        self._shape = (len(self._pairs), *question.grid.shape)
        self._sums = np.zeros((len(self._pairs), len(question.grid)))
        self._counts = np.zeros(self._sums.shape, dtype=np.int64)
        self._ends = np.full((2, len(self._pairs)), np.nan)
        self._estimate, self._scores = self._estimated(estimate)
        if resume is not None:
            self._take_up(resume)

    # What it is, and how far

    @property
    def cost(self) -> Cost:
        """What the cells that are left will take, estimated: rows through layers, seconds, and bytes at once.

        Of several pairs one is estimated, and the others are taken to be like it.
        """
        at, question = self._current or (0, self._question(0))
        pending = [self._pending(pair).tolist() for pair in range(len(self._pairs))]
        # Of very many cells some are looked at, evenly.
        some = pending[at][:: max(1, len(pending[at]) // _AT_ONCE)]
        one = question.engine.cost([cell for number in some for cell in self._cells(question, number)])
        times = sum(map(len, pending)) / max(1, len(some))
        return Cost(round(one.rows * times), one.seconds * times, one.bytes + self._keeps)

    @property
    def total(self) -> int:
        """How many cells there are, of all pairs."""
        return self._counts.size

    @property
    def done(self) -> int:
        """How many of them are exact."""
        return int((self._counts == self._draws).sum())

    @property
    def sweep(self) -> Sweep:
        """The sweep as it stands: what is done is exact; the rest is the estimate, or nan."""
        exact = self._counts == self._draws
        values = np.where(exact, self._sums / np.maximum(self._counts, 1), self._estimate)
        clean, corrupt = self._ends
        pairs = [Axis("pair", tuple(range(len(self._pairs))), tuple(map(str, range(len(self._pairs)))))]
        several, asked = self._several, self._asked[0]
        shape = self._shape if several else self._shape[1:]
        has_corrupt = self._pairs[0].other is not None or asked.direction == "denoise"
        engine, why = self._engine or (None, None)
        return Sweep(
            site=asked.site,
            axes=(*(pairs if several else ()), *self._axes),
            values=values.reshape(shape),
            exact=exact.reshape(shape),
            clean=clean if several else float(clean[0]),
            corrupt=None if not has_corrupt else corrupt if several else float(corrupt[0]),
            metric=repr(asked.metric) if len(set(self._asked_metrics)) == 1 else f"{len(self._asked)} metrics",
            direction=asked.direction,
            engine=engine,
            why=why,
            provenance={**self.model.provenance, "question": self.question},
        )

    @property
    def question(self) -> dict[str, Any]:
        """What is asked, as plain data: two sweeps of one question and one model have the same values."""
        asked, choice = self._asked[0], self._asked[0].choice
        return {
            "site": asked.site,
            "over": list(asked.over),
            "direction": asked.direction,
            "metrics": self._asked_metrics,
            "source": "the other prompt" if asked.source is None else repr(asked.source),
            "window": choice.window,
            "base": [pair.ids[0] for pair in self._pairs],
            "other": [None if pair.other is None else pair.ids[1] for pair in self._pairs],
            "align": [None if pair.aligned.is_plain else [list(p) for p in pair.aligned.pairs] for pair in self._pairs],
            "axes": [[axis.name, list(axis.ticks), list(axis.labels)] for axis in self._axes],
            "chosen": [repr(each) for each in (choice.positions, choice.heads, choice.neurons, choice.spans)],
        }

    @property
    def _asked_metrics(self) -> list[str]:
        return [repr(asked.metric) for asked in self._asked]

    def questions(self) -> Iterator[Question]:
        """The question of each pair, whose prompts have then run: what an estimate is made of."""
        for at in range(len(self._pairs)):
            question = self._question(at)
            self._ends[:, at] = question.clean, np.nan if question.corrupt is None else question.corrupt
            yield question

    def take_estimate(self, estimate: Sweep | np.ndarray) -> None:
        """Show an estimate until cells are exact, and compute the strongest ones first: as the argument `estimate`."""
        self._estimate, self._scores = self._estimated(estimate)

    # Running it

    def run(self, progress: Callable[[int, int], object] | None = None) -> Sweep:
        """Compute what is left, and give the sweep. After Ctrl+C what is done is kept, and `run` goes on from there.

        progress: called with how many cells are done, and how many there are.
        """
        for _ in self.steps():
            if progress is not None:
                progress(self.done, self.total)
        return self.sweep

    def steps(self) -> Generator[Sweep | None, None, Sweep]:
        """Compute in steps: yields None where one may take a breath, and the sweep so far whenever cells are done.

        Closing the generator stops the work and leaves nothing behind; a new one goes on with what is left. Raises
        `MemoryError` where it would not fit, with the figure, and `RuntimeError` where the model's edits have changed.
        """
        if self.model.edits != self._edits:
            raise RuntimeError("the model's edits have changed since this sweep began: begin a new one.")
        for at in range(len(self._pairs)):
            if not self._pending(at).size and not np.isnan(self._ends[0, at]):
                continue
            question = self._question(at)
            yield from self._settle(at, question)
            yield self.sweep
            yield from self._compute(at, question)
        return self.sweep

    def _compute(self, at: int, question: Question) -> Generator[Sweep | None]:
        """The cells of one pair that are left, in the useful order."""
        read = question.metric.read(question.pair.base.shape[1])
        for numbers in self._portions(self._pending(at).tolist()):
            cells = [(number, cell) for number in numbers for cell in self._cells(question, number)]
            with closing(question.engine.run([cell for _, cell in cells], read, self._budget)) as steps:
                for chunk in steps:
                    if chunk is None:
                        yield None
                        continue
                    values = question.metric.of(self.model, chunk.ends).double().cpu().numpy()
                    done = [cells[i][0] for i in chunk.indices]
                    np.add.at(self._sums[at], done, values)
                    np.add.at(self._counts[at], done, 1)
                    self._engine = (question.engine.name, question.engine.why)
                    yield self.sweep

    def _portions(self, pending: list[int]) -> Iterator[list[int]]:
        """Cells that go to the engine together; few at first where an estimate is shown meanwhile: somebody watches."""
        most = max(1, _AT_ONCE // self._draws)
        size = most if self._scores is None else min(most, max(8, len(pending) // 12))
        while pending:
            yield pending[:size]
            pending, size = pending[size:], min(most, 2 * size)

    @property
    def _budget(self) -> int:
        """The bytes that the engine may take at once."""
        free = free_bytes(self.model.device) if self._memory is None else self._memory - self._keeps
        return BUDGET if free is None else max(1, min(BUDGET, free))

    def _settle(self, at: int, question: Question) -> Generator[None]:
        """Note what is known without a cell: the metric on the prompts, and the cells that change nothing.

        Cells of which some draws were done when the work was stopped begin anew.
        """
        self._ends[:, at] = question.clean, np.nan if question.corrupt is None else question.corrupt
        self._engine = self._engine or (question.engine.name, question.engine.why)
        for looked_at, number in enumerate(self._pending(at).tolist(), 1):
            if looked_at % _AT_ONCE == 0:
                yield
            same = question.changes_nothing(number)
            self._counts[at, number] = self._draws if same else 0
            self._sums[at, number] = self._draws * question.base if same else 0.0

    def _cells(self, question: Question, number: int) -> list[Any]:
        cells = (question.cell(number, draw) for draw in range(self._draws))
        return [cell for cell in cells if cell is not None]

    def _pending(self, at: int) -> np.ndarray:
        """The cells of a pair that are left, the strongest by the estimate first, or spread evenly."""
        left = self._counts[at] < self._draws
        return self._order[left[self._order]]

    @property
    def _order(self) -> np.ndarray:
        assert self._current is not None
        if self._scores is None:
            return self._current[1].grid.coarse_first()
        return np.argsort(-np.nan_to_num(self._scores, nan=-np.inf), kind="stable")

    def _question(self, at: int) -> Question:
        """The question of one pair; of one at a time, since it holds activations."""
        if self._current is None or self._current[0] != at:
            self._current = None
            question = Question.of(self._asked[at], self._pairs[at])
            if at:
                self._check_alike(at, question)
            self._current = (at, question)
        return self._current[1]

    # Checks

    def _check_lengths(self, first: Question) -> None:
        lengths = [pair.base.shape[1] for pair in self._pairs]
        if "pos" in self._asked[0].over and len(set(lengths)) > 1:
            raise ValueError(
                f"the prompts have {', '.join(map(str, lengths))} tokens: position 5 of one is not position 5 of "
                "another. Sweep over heads, or over named spans; or sweep each pair by itself."
            )

    def _check_alike(self, at: int, question: Question) -> None:
        for mine, theirs in zip(self._axes, question.grid.axes, strict=True):
            if mine.ticks != theirs.ticks:
                raise ValueError(
                    f"pair {at} has other {mine.name}s than pair 0 ({len(theirs.ticks)} and {len(mine.ticks)}): sweep "
                    "pairs together only over what they share."
                )

    def _estimated(self, estimate: Sweep | np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """What to show until a cell is exact, (pair, cell), and by what to order the cells, (cell,)."""
        nothing = np.full(self._sums.shape, np.nan)
        if estimate is None:
            return nothing, None
        scores = np.asarray(estimate.effect if isinstance(estimate, Sweep) else estimate, dtype=np.float64)
        if scores.shape not in (self._shape, self._shape[1:]):
            raise ValueError(f"the estimate has shape {scores.shape}, and this sweep {self._shape[1:]}.")
        flat = np.abs(scores).reshape(-1, self._sums.shape[1]).max(0)
        if not isinstance(estimate, Sweep):
            return nothing, flat
        return np.broadcast_to(estimate.values.reshape(-1, self._sums.shape[1]), self._sums.shape).copy(), flat

    def _take_up(self, partial: Sweep) -> None:
        """Take over the exact cells of a sweep of the same question. Raises `ValueError` where it is another."""
        mine, theirs = self.sweep.provenance, partial.provenance
        for name in ("model", "revision", "dtype", "adapters", "edits"):
            if mine[name] != theirs.get(name):
                raise ValueError(f"resume: that sweep has another {name} ({theirs.get(name)}), this one {mine[name]}.")
        asked = theirs.get("question", {})
        if other := [name for name, what in self.question.items() if asked.get(name) != what]:
            raise ValueError(
                f"resume: that sweep asks another question, its {other[0]} differs: {asked.get(other[0])}."
            )
        exact = partial.exact.reshape(self._counts.shape)
        self._counts[exact] = self._draws
        self._sums[exact] = partial.values.reshape(exact.shape)[exact] * self._draws


def _pairs(model: Model, clean: Prompt, corrupt: Prompt | None) -> tuple[list[Prompt], list[Prompt | None], bool]:
    """The pairs of prompts, and whether several were given (a list of one counts)."""
    cleans, several = _prompts(clean)
    if corrupt is None:
        return cleans, [None] * len(cleans), several
    corrupts, also = _prompts(corrupt)
    if several != also or len(cleans) != len(corrupts):
        raise ValueError(f"{len(cleans)} clean prompts and {len(corrupts)} corrupt ones: each needs its partner.")
    return cleans, [*corrupts], several


def _prompts(given: Prompt) -> tuple[list[Prompt], bool]:
    """The prompts that a person gave as one, as a list, or as rows of ids."""
    import torch

    if isinstance(given, torch.Tensor):
        return ([*given], True) if given.dim() == 2 and len(given) > 1 else ([given], False)
    if isinstance(given, str) or not given or isinstance(given[0], int):
        return [given], False
    return list(given), True  # pyright: ignore[reportReturnType] -- a list of prompts
