"""LiveReading: a trajectory that follows a prompt as it is typed, recomputing only what the change touched."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lenskit.lenses.lens import Lens, columns_of, target_ids, trajectory_of
from lenskit.lenses.readout import Columns
from lenskit.lenses.trajectory import Trajectory
from lenskit.models.edits import Edit
from lenskit.models.prefix import Prefix, common_length
from lenskit.models.run import Run
from lenskit.models.steps import finish, in_steps

T = TypeVar("T")

# About how much of a read is the forward; it only shapes the progress line.
_FORWARD = 0.25


@dataclass(frozen=True)
class Update:
    """What an update gave: the whole trajectory, from which position on it is new, and how much ran.

    Attributes:
        trajectory: of the whole prompt.
        start: the columns before it are those of the update before, unchanged.
        ran: how many positions went through the model.
    """

    trajectory: Trajectory
    start: int
    ran: int


class LiveReading:
    """The live source of a lens table: it holds the last reading, and turns it into the next one.

    Every value equals that of a full read of the same prompt up to floating-point noise. One update runs at a time; the
    generator may be closed at any yield, and what was held before stays good.

    >>> live = LiveReading(lk.LogitLens(model))                # doctest: +SKIP
    >>> live.now("The capital of France").ran                  # doctest: +SKIP
    4
    >>> live.now("The capital of France is").ran               # doctest: +SKIP
    1
    """

    def __init__(self, lens: Lens, top_k: int = 10) -> None:
        self.lens, self.top_k = lens, top_k
        self.prefix = Prefix(lens.model)
        self._tokens: list[int] = []
        self._target: int | None = None
        self._edits: tuple[Edit, ...] = ()
        self._columns: Columns | None = None
        self._states = torch.empty(lens.model.n_layers, 0, 0)  # (layer, pos, d_model), of the lens's site

    def now(self, prompt: str | list[int], target: str | int | None = None) -> Update:
        """Update without pausing. Raises what `model.run` and `lens.read` raise."""
        return finish(self.update(prompt, target))

    def update(self, prompt: str | list[int], target: str | int | None = None) -> Generator[float, None, Update]:
        """Update in steps: yields the share done before every block of the model and after every tile."""
        model = self.lens.model
        target = None if target is None else model.text.token(target)
        batch = model.batch(prompt)
        if len(batch.tokens) > 1:
            raise ValueError(f"a live reading follows one prompt, not {len(batch.tokens)}.")
        tokens: list[int] = batch.tokens[0].tolist()
        shared = common_length(tokens, self._tokens)
        if not model.anatomy.causal and tokens != self._tokens:
            shared = 0  # what comes later changes what was before
        edits = model.edits
        if edits or self._edits:
            shared = 0  # an edit may stand at the last position, wherever that is now
        # A column belongs to its position and the target: another target means all columns are read again.
        start = shared if self._columns is not None and target == self._target else 0

        states, logits, ran = self._states[:, :shared], None, 0
        if shared < len(tokens):
            states, logits, ran = yield from _within(0.0, _FORWARD, self._run(tokens, states))
        columns = self._columns[:start] if self._columns is not None else None
        if start < len(tokens):
            if start < shared:
                with torch.no_grad():
                    known = model.unembed(states[-1, start:shared])
                logits = known if logits is None else torch.cat([known, logits])
            assert logits is not None
            chosen = target_ids(model, target, batch.tokens[0, start:])
            reading = columns_of(self.lens, states[:, start:], logits, self.top_k, chosen)
            fresh = yield from _within(_FORWARD, 1.0, reading)
            columns = fresh if columns is None else columns.then(fresh)
        assert columns is not None
        self._tokens, self._target, self._columns, self._states = tokens, target, columns, states
        self._edits = edits
        trajectory = trajectory_of(self.lens, tokens, columns, model.provenance)
        return Update(trajectory, start, ran)

    def _run(self, tokens: list[int], known: Tensor) -> Generator[float, None, tuple[Tensor, Tensor, int]]:
        """States of the whole prompt, logits of the positions after the `known` states, and how many positions ran."""
        blocks = self.lens.model.anatomy.blocks
        # The prefix may hold more than these states: a reading that was given up had run its forward already.
        count = known.shape[1]
        forward = in_steps(lambda: self.prefix.run(tokens, keep=self.lens.site, known=count), blocks)
        done = 0
        while True:
            try:
                next(forward)
            except StopIteration as stop:
                run: Run = stop.value
                break
            done = min(done + 1, len(blocks))
            yield done / len(blocks)
        ran, fresh = run.tokens.shape[1], len(tokens) - count
        states = run[self.lens.site][:, 0, ran - fresh :]
        if known.numel():
            states = torch.cat([known, states], 1)
        return states, run.logits[0, ran - fresh :], ran


def _within(low: float, high: float, steps: Generator[float, None, T]) -> Generator[float, None, T]:
    """The steps of one phase, as a share of the whole."""
    while True:
        try:
            share = next(steps)
        except StopIteration as done:
            return done.value
        yield low + (high - low) * share
