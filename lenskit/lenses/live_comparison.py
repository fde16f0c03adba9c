"""LiveComparison: two readings that follow their prompts as these are typed, and how far apart they are."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lenskit.lenses.between import Comparison, Side, measured, rows_both_read
from lenskit.lenses.lens import Lens
from lenskit.lenses.live import LiveReading, Update, within
from lenskit.models.prefix import common_length
from lenskit.models.sites import Site
from lenskit.models.steps import finish

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Question:
    """What a table shows.

    Attributes:
        prompt: the text that is read.
        lens: the name of the lens that reads it.
        target, versus: the tokens that are followed.
        second: the name of the lens that reads the same prompt beside it, or None.
        other: the prompt that the same lens reads beside it, or None.
        written: tokens that follow the prompt, such as the model's own continuation.
        words: whether only tokens that read as words are shown, see `read`.
    """

    prompt: str
    lens: str
    target: int | None = None
    versus: int | None = None
    second: str | None = None
    other: str | None = None
    written: tuple[int, ...] = ()
    words: bool = False


@dataclass(frozen=True)
class Answer:
    """What there is to show.

    Attributes:
        first: the reading, and in a comparison its first side.
        comparison: with the other side, where there is one.
        second: that side's reading.
    """

    first: Update
    second: Update | None = None
    comparison: Comparison | None = None

    @property
    def ran(self) -> int:
        """How many positions went through the model, for both sides."""
        return self.first.ran + (self.second.ran if self.second is not None else 0)


def site_of(lenses: Mapping[str, Lens], question: Question) -> str:
    """What is read for a question: the lens's own site; for two lenses whose sites differ `resid_pre`."""
    first = lenses[question.lens]
    second = first if question.second is None else lenses[question.second]
    return first.site if first.site == second.site else "resid_pre"


def rows_of_question(lenses: Mapping[str, Lens], question: Question) -> list[Site]:
    """Where each row of the answer comes from: in a comparison, what both lenses can read."""
    first = lenses[question.lens]
    second = first if question.second is None else lenses[question.second]
    return rows_both_read(first, second, site_of(lenses, question))


class LiveComparison:
    """The live source of a lens table with several lenses or two prompts: it answers one question after another.

    All lenses read the same run. A second prompt has a run of its own, which is made when it is first asked for.
    """

    def __init__(self, lenses: Mapping[str, Lens], top_k: int = 10) -> None:
        self.lenses = dict(lenses)
        self.reading = LiveReading(list(lenses.values()), top_k)
        self._other: LiveReading | None = None
        self._measured: tuple[object, list[int], list[int], Arrays] | None = None

    def now(self, question: Question) -> Answer:
        """Answer without pausing."""
        return finish(self.answer(question))

    def answer(self, question: Question) -> Generator[float, None, Answer]:
        """Answer in steps: yields the share done. Raises what `model.run`, `lens.read` and `compare` raise.

        Two lenses that read different sites are compared at `resid_pre`, so that rows hold the same states.
        """
        first = self.lenses[question.lens]
        asked = {"target": question.target, "versus": question.versus, "words": question.words}
        prompt = self._read(question.prompt, question.written)
        if question.second is None and question.other is None:
            return Answer((yield from self.reading.update(prompt, **asked, lens=first)))
        second = first if question.second is None else self.lenses[question.second]
        site = site_of(self.lenses, question)
        rows = rows_both_read(first, second, site)
        if question.other is not None:
            self._check(question.prompt, question.other)
        if site not in self.reading.sites:
            raise ValueError(f"{question.lens} and {question.second} read different sites, and none reads {site}.")
        read = self.reading.update(prompt, **asked, lens=first, site=site, rows=rows)
        a = yield from within(0.0, 0.3, read)
        there = self.reading if question.other is None else self._beside()
        beside = prompt if question.other is None else self._read(question.other, question.written)
        b = yield from within(0.3, 0.6, there.update(beside, **asked, lens=second, site=site, rows=rows))
        found = yield from within(0.6, 1.0, self._between(first, second, site, rows, there))
        ids = sorted(set(found["changed_ids"].ravel().tolist()))
        pieces = dict(zip(ids, self.reading.model.text.pieces(ids), strict=True))
        return Answer(a, b, Comparison(a.trajectory, b.trajectory, **found, pieces=pieces))

    def _read(self, prompt: str, written: tuple[int, ...]) -> str | list[int]:
        """What is read: the prompt, or its tokens and what was written after them."""
        return [*self.reading.tokens(prompt), *written] if written else prompt

    def _beside(self) -> LiveReading:
        if self._other is None:
            self._other = LiveReading(list(self.lenses.values()), self.reading.top_k)
        return self._other

    def _between(
        self, first: Lens, second: Lens, site: str, rows: Sequence[Site], there: LiveReading
    ) -> Generator[float, None, Arrays]:
        """The statistics (layer, pos); only those of positions that are new on either side are measured."""
        ours, theirs = self.reading.stream, there.stream
        key, start, known = (first, second, site, there is self.reading), 0, None
        still = self.reading.model.anatomy.causal and not (ours.edits or theirs.edits)
        if still and self._measured is not None and self._measured[0] == key:
            _, a, b, known = self._measured
            start = min(common_length(a, ours.tokens), common_length(b, theirs.tokens))
        if start < len(ours.tokens):
            sides = [
                Side.at(lens, live.rows(rows)[:, start:], live.logits(start), rows)
                for lens, live in ((first, self.reading), (second, there))
            ]
            fresh = yield from measured(*sides)
            old = {name: x[:, :start] for name, x in known.items()} if known is not None and start else None
            known = fresh if old is None else {name: np.concatenate([old[name], x], 1) for name, x in fresh.items()}
        elif known is not None:
            known = {name: x[:, :start] for name, x in known.items()}
        assert known is not None
        for array in known.values():
            array.flags.writeable = False
        self._measured = (key, ours.tokens, theirs.tokens, known)
        return known

    def _check(self, prompt: str, other: str) -> None:
        """Refuse two prompts that do not line up, before anything runs."""
        text = self.reading.model.text
        a, b = self.reading.tokens(prompt), self.reading.tokens(other)
        if len(a) == len(b):
            return
        at = common_length(a, b)
        ends = [text.str_tokens(row[at : at + 1]) for row in (a, b)]
        words = [f'"{tokens[0]}"' if tokens else "its end" for tokens in ends]
        raise ValueError(
            f"the prompts do not line up: the first has {len(a)} tokens, the second {len(b)}. They first differ at "
            f"position {at}: {words[0]} in the first, {words[1]} in the second. Edit one of them until both have as "
            "many tokens."
        )
