"""How often swapping two words along a lens's directions changes an answer: `python -m bench.swaps [lens file]`.

Clamped to the clean run's coordinates, and read from the edited forward itself; each beside a placebo, the same edit
along directions turned at random, and beside the logit lens's directions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

import lenskit as lk
from lenskit.lenses.jacobian import JacobianLens
from lenskit.lenses.lens import Lens
from lenskit.models.steering import Swap

_CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Greece": "Athens",
    "England": "London",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Ireland": "Dublin",
    "Cuba": "Havana",
    "Canada": "Ottawa",
    "Israel": "Jerusalem",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Denmark": "Copenhagen",
    "Kenya": "Nairobi",
}
_LANGUAGES = {
    "France": "French",
    "Italy": "Italian",
    "Spain": "Spanish",
    "Japan": "Japanese",
    "Russia": "Russian",
    "Greece": "Greek",
    "England": "English",
    "Portugal": "Portuguese",
    "Turkey": "Turkish",
}
_OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "left": "right",
    "good": "bad",
    "fast": "slow",
    "black": "white",
    "rich": "poor",
    "high": "low",
    "wet": "dry",
    "hard": "soft",
    "strong": "weak",
    "male": "female",
    "north": "south",
    "open": "closed",
    "inside": "outside",
}
TEMPLATES = {
    "The capital of {} is": _CAPITALS,
    "The opposite of {} is": _OPPOSITES,
    "People in {} speak": _LANGUAGES,
    "The capital city of {} is": _CAPITALS,
}
PROMPTS, SEEDS = 50, 3
BANDS = (range(4, 16), range(8, 20), range(10, 22), range(12, 24))


class Question(NamedTuple):
    """A prompt, the word in it that is swapped for another, and what the model answers to the one and to the other."""

    prompt: str
    source: str
    target: str
    answer: str
    other: str


@dataclass(frozen=True)
class Rate:
    """Of so many answers: how many the other one overtook, how many it now is, and by how much it gained (nats)."""

    name: str
    count: int
    overtook: float
    became: float
    gain: float

    def __str__(self) -> str:
        return (
            f"{self.name:<50} overtook {self.overtook:5.1f} of {self.count}, became {self.became:5.1f}, "
            f"gain {self.gain:+.2f} nats"
        )


def questions(model: lk.Model, count: int = PROMPTS) -> list[Question]:
    """Prompts whose answer the model knows, each with the next word of its kind that it knows the answer for, too."""
    found = list[list[Question]]()
    for template, facts in TEMPLATES.items():
        known = [word for word, answer in facts.items() if _answers(model, template.format(word), answer)]
        ring = zip(known, known[1:] + known[:1], strict=True)
        asked = (Question(template.format(a), f" {a}", f" {b}", f" {facts[a]}", f" {facts[b]}") for a, b in ring)
        found.append([question for question in asked if question.answer != question.other])
    # A few of each kind in turn, so that no kind is left out.
    turns = max(map(len, found))
    return [each[at] for at in range(turns) for each in found if at < len(each)][:count]


def _answers(model: lk.Model, prompt: str, answer: str) -> bool:
    return int(model.run(prompt).logits[0, -1].argmax()) == model.text.token(f" {answer}")


def rate(model: lk.Model, asked: Sequence[Question], edit_of: Callable[[Question], Swap], name: str) -> Rate:
    """What becomes of the answers under one edit each: all prompts in one batch, each edit in its own row."""
    edits = [replace(edit_of(question), rows=[row]) for row, question in enumerate(asked)]
    before, after = _odds(model, asked, ()), _odds(model, asked, edits)
    answer, other = (
        torch.tensor([model.text.token(getattr(each, which)) for each in asked]) for which in ("answer", "other")
    )
    row = torch.arange(len(asked))
    ahead = [odds[row, other] - odds[row, answer] for odds in (before, after)]
    became = int((after.argmax(-1) == other).sum())
    return Rate(name, len(asked), int((ahead[1] > 0).sum()), became, float((ahead[1] - ahead[0]).mean()))


def averaged(rates: Sequence[Rate], name: str) -> Rate:
    """The mean of several tries."""
    parts = zip(*((each.overtook, each.became, each.gain) for each in rates), strict=True)
    return Rate(name, rates[0].count, *(sum(part) / len(rates) for part in parts))


def _odds(model: lk.Model, asked: Sequence[Question], edits: Sequence[Swap]) -> torch.Tensor:
    """(prompt, vocab) log-probabilities of what comes next."""
    run = model.run([question.prompt for question in asked], edits=edits, padding_side="left")
    return run.logits[:, -1].log_softmax(-1)


def report(model: lk.Model, lens: Lens, count: int = PROMPTS) -> Iterator[Rate]:
    """Rates of clamped and live swaps from the word on, by band of layers, with placebos and the logit lens."""
    asked = questions(model, count)

    def swaps(lens: Lens, layers: range, clamped: bool) -> Callable[[Question], Swap]:
        def made(question: Question) -> Swap:
            begin = max(1, model.text.position(question.prompt, question.source))
            words = question.source, question.target
            return Swap(lens, *words, layers=layers, pos=slice(begin, None), clamped=clamped)  # pyright: ignore

        return made

    read = getattr(lens, "layers", range(model.n_layers))
    for layers in BANDS:
        if not set(layers) <= set(read):
            continue
        for clamped in (True, False):
            kind = f"layers {layers[0]} to {layers[-1]}, {'clamped' if clamped else 'live'}"
            yield rate(model, asked, of := swaps(lens, layers, clamped), f"{kind}: {lens.name} lens")
            turned = [
                rate(model, asked, lambda question, of=of, seed=seed: of(question).placebo(seed), "")
                for seed in range(SEEDS)
            ]
            yield averaged(turned, f"{kind}: placebo, mean of {SEEDS}")
        logit = swaps(lk.LogitLens(model), layers, True)
        yield rate(model, asked, logit, f"layers {layers[0]} to {layers[-1]}, clamped: logit lens")


if __name__ == "__main__":
    torch.set_num_threads(1)
    demo = lk.load("demo")
    for line in report(demo, JacobianLens.load(demo, *(sys.argv[1:] or ["demo"]))):
        print(line, flush=True)
