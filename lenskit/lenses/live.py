"""LiveReading: a trajectory that follows a prompt as it is typed, recomputing only what the change touched."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lenskit.lenses.lens import Lens
from lenskit.lenses.reading import columns_of, of_rows, rows_of, target_ids, trajectory_of
from lenskit.lenses.readout import Asked, Columns
from lenskit.lenses.trajectory import Trajectory
from lenskit.lenses.word_like import word_like
from lenskit.models.edits import Edit
from lenskit.models.prefix import Prefix, common_length
from lenskit.models.run import Run
from lenskit.models.sites import Site
from lenskit.models.steps import finish, in_steps

T = TypeVar("T")

# About how much of a read is the forward; it only shapes the progress line.
_FORWARD = 0.25


@dataclass(frozen=True)
class Update:
    """What an update gave: the whole trajectory, from which position on it is new, and how much ran.

    Attributes:
        trajectory: of the whole prompt.
        start: the columns before it are those of the update before of this lens, unchanged.
        ran: how many positions went through the model.
    """

    trajectory: Trajectory
    start: int
    ran: int


@dataclass(frozen=True)
class Stream:
    """The residual stream of a prompt.

    Attributes:
        tokens: the prompt.
        states: (layer, pos, d_model) by site, for each site that one of the lenses reads.
        final: (pos, d_model) the final residual.
        edits: those the model had.
    """

    tokens: list[int]
    states: dict[str, Tensor]
    final: Tensor
    edits: tuple[Edit, ...]

    def cut(self, length: int) -> Stream:
        """The first positions of it."""
        states = {site: x[:, :length] for site, x in self.states.items()}
        return Stream(self.tokens[:length], states, self.final[:length], self.edits)


@dataclass(frozen=True)
class _Held:
    """What one lens read last."""

    tokens: list[int]
    asked: tuple[object, ...]
    columns: Columns


class LiveReading:
    """The live source of a lens table: it holds the last readings, and turns them into the next one.

    Several lenses read the same run: changing the lens runs nothing. Every value equals that of a full read of the same
    prompt up to floating-point noise. One update runs at a time; the generator may be closed at any yield, and what was
    held before stays good.

    >>> live = LiveReading(lk.LogitLens(model))                # doctest: +SKIP
    >>> live.now("The capital of France").ran                  # doctest: +SKIP
    4
    >>> live.now("The capital of France is").ran               # doctest: +SKIP
    1
    """

    def __init__(self, lens: Lens | Sequence[Lens], top_k: int = 10) -> None:
        self.lenses: tuple[Lens, ...] = tuple(lens) if isinstance(lens, Sequence) else (lens,)
        self.lens, self.top_k = self.lenses[0], top_k
        self.model = self.lens.model
        self.prefix = Prefix(self.model)
        self.sites = list(dict.fromkeys(each.site for each in self.lenses))
        nothing = torch.empty(0, 0)
        self.stream = Stream([], dict.fromkeys(self.sites, nothing[None]), nothing, ())
        self._held: dict[tuple[Lens, str], _Held] = {}

    def now(self, prompt: str | list[int], target: str | int | None = None) -> Update:
        """Update without pausing. Raises what `model.run` and `lens.read` raise."""
        return finish(self.update(prompt, target))

    def update(
        self,
        prompt: str | list[int],
        target: str | int | None = None,
        *,
        versus: str | int | None = None,
        lens: Lens | None = None,
        site: str | None = None,
        rows: Sequence[Site] | None = None,
        words: bool = False,
    ) -> Generator[float, None, Update]:
        """Update in steps: yields the share done before every block of the model and after every tile.

        `lens` is one of the lenses, by default the first, and `site` what it reads, by default its own site; `rows` are
        some of those of `rows_of`, and `words` is as in `read`.
        """
        lens = self.lens if lens is None else lens
        name = lens.site if site is None else site
        rows = rows_of(lens, name) if rows is None else rows
        first, other = (None if token is None else self.model.text.token(token) for token in (target, versus))
        tokens = self.tokens(prompt)
        shared = self._shared(tokens)
        fresh, ran = None, 0
        if shared < len(tokens):
            fresh, ran = yield from within(0.0, _FORWARD, self._run(tokens, shared))
        else:
            self.stream = self.stream.cut(shared)
        held = self._held.get((lens, name))
        columns, start = None, 0
        # A column belongs to its position and what is asked of it: with another target all are read again.
        wanted = (first, other, words, tuple(rows))
        if held is not None and held.asked == wanted:
            start = common_length(tokens, held.tokens)
            start = start if self.model.anatomy.causal or tokens == held.tokens else 0
            columns = held.columns[:start]
        if start < len(tokens):
            logits = self._logits(start, fresh)
            ids = torch.tensor(tokens[start:])
            targets = (target_ids(self.model, token, ids) for token in (first, other))
            asked = Asked(self.top_k, *targets, shown=word_like(self.model) if words else None)
            reading = columns_of(lens, self.rows(rows)[:, start:], logits, asked, name, rows)
            new = yield from within(_FORWARD, 1.0, reading)
            columns = columns.then(new) if columns is not None and start else new
        assert columns is not None
        self._held[lens, name] = _Held(tokens, wanted, columns)
        provenance = self.model.provenance | ({"words": True} if words else {})
        return Update(trajectory_of(lens, tokens, columns, provenance, name, rows), start, ran)

    def tokens(self, prompt: str | list[int]) -> list[int]:
        """The prompt's tokens. Raises what `model.batch` raises, and ValueError for more than one prompt."""
        batch = self.model.batch(prompt)
        if len(batch.tokens) > 1:
            raise ValueError(f"a live reading follows one prompt, not {len(batch.tokens)}.")
        return batch.tokens[0].tolist()

    def rows(self, rows: Sequence[Site]) -> Tensor:
        """(row, pos, d_model) the states of these rows in the present stream: of all but the last, the model's own."""
        return of_rows(self.stream.states[rows[0].name if len(rows) > 1 else self.sites[0]], rows[:-1])

    def logits(self, start: int) -> Tensor:
        """(pos, vocab) the model's own from position `start` on."""
        return self._logits(start, None)

    def _logits(self, start: int, fresh: Tensor | None) -> Tensor:
        """The model's own logits from `start` on; `fresh` are those of the last positions, where the run gave them."""
        end = len(self.stream.tokens) - (0 if fresh is None else len(fresh))
        if fresh is not None and start >= end:
            return fresh[start - end :]
        with torch.no_grad():
            known = self.model.unembed(self.stream.final[start:end])
        return known if fresh is None else torch.cat([known, fresh])

    def _shared(self, tokens: list[int]) -> int:
        """How many positions of the stream still stand. What was read of others is forgotten where it does not."""
        stream, edits = self.stream, self.model.edits
        if edits or stream.edits:
            self._held.clear()  # an edit may stand at the last position, wherever that is now
            return 0
        if not self.model.anatomy.causal and tokens != stream.tokens:
            return 0  # what comes later changes what was before
        return common_length(tokens, stream.tokens)

    def _run(self, tokens: list[int], count: int) -> Generator[float, None, tuple[Tensor, int]]:
        """Run what follows the first `count` positions: its logits, and how many positions ran. Moves the stream."""
        blocks, last = self.model.anatomy.blocks, Site("resid_post", self.model.n_layers - 1)
        # The prefix may hold more than these states: a reading that was given up had run its forward already.
        keep = [*self.sites, *([] if "resid_post" in self.sites else [last])]
        edits = self.model.edits
        forward = in_steps(lambda: self.prefix.run(tokens, keep=keep, known=count), blocks)
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
        known = self.stream.cut(count)
        states = {site: run[site][:, 0, ran - fresh :] for site in self.sites}
        final = run[last][0, ran - fresh :]
        if count:
            states = {site: torch.cat([known.states[site], x], 1) for site, x in states.items()}
            final = torch.cat([known.final, final])
        self.stream = Stream(tokens, states, final, edits)
        return run.logits[0, ran - fresh :], ran


def within(low: float, high: float, steps: Generator[float, None, T]) -> Generator[float, None, T]:
    """The steps of one phase, as a share of the whole."""
    while True:
        try:
            share = next(steps)
        except StopIteration as done:
            return done.value
        yield low + (high - low) * share
