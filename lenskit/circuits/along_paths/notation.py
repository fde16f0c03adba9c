"""Notation: computational paths as text, `mlp8tc[89]@-1: 7.6 <- attn2[2]@8: 0.35 <- mlp0tc[10490]@8: 0.17`.

A path begins with what is explained and goes backwards. A step names what gives, where it stands, and what it gives to
the path's beginning:

    logit[7042]@11        a logit; of a difference of two, logit[7042-2405]@11
    mlp8tc[89]@7          a feature of the dictionary that reads layer 8
    mlp8neuron[89]@7      a neuron
    mlp8@7                an MLP as a whole
    mlp8skip@7            what goes past the features of a dictionary, by its skip connection
    mlp8error@7           what the dictionaries miss of what an MLP writes
    attn2[2]@8            a head, and the position that it looks at
    embed@3               a token's embedding
    bias@7                all biases together
    pruned@7              what a set of paths leaves out

Source: the way transcoder_circuits prints paths; Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM
Feature Circuits" (2024).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

Component = Literal["logit", "tc", "neuron", "mlp", "skip", "error", "attn", "embed", "bias", "pruned"]
COMPONENTS: tuple[Component, ...] = (
    *("logit", "tc", "neuron", "mlp", "skip"),
    *("error", "attn", "embed", "bias", "pruned"),
)

_ARROW = " <- "
_PLACE = re.compile(
    r"(?:(?P<logit>logit)(?:\[(?P<token>\d+)(?:-(?P<versus>\d+))?\])?"
    r"|mlp(?P<mlp>\d+)(?:(?P<basis>tc|neuron)\[(?P<feature>\d+)\]|(?P<rest>skip|error))?"
    r"|attn(?P<attn>\d+)\[(?P<head>\d+)\]"
    r"|(?P<other>bias|pruned)|(?P<embed>embed)0?)"
    r"@(?P<pos>-?\d+)"
)
_STEP = re.compile(r"\s*(?P<place>[^\s:]+)\s*(?::\s*(?P<contribution>[^\s:]+)\s*)?")


class Step(NamedTuple):
    """One step of a path: what gives, where, and what it gives to the path's beginning.

    Attributes:
        component: "logit", "tc" (a feature of a dictionary), "neuron", "mlp", "skip", "error", "attn", "embed", "bias"
            or "pruned": see `lenskit.circuits.along_paths.notation`.
        layer: the layer; -1 for what has none. Of a feature, the layer that its dictionary reads.
        number: which feature, neuron or head; of a logit its token; -1 for what has none.
        pos: the position; of a head, the one that it looks at. Counted from the end where it is negative.
        contribution: what it gives to the path's beginning, in the units of that; nan where nobody says.
        versus: of a difference of two logits, the token that is taken away; else -1.

    >>> Step.parse("attn2[3]@8: 0.35")
    Step(component='attn', layer=2, number=3, pos=8, contribution=0.35, versus=-1)
    >>> str(Step("tc", 8, 89, -1, 7.63))
    'mlp8tc[89]@-1: 7.6'
    """

    component: Component
    layer: int
    number: int
    pos: int
    contribution: float = math.nan
    versus: int = -1

    @classmethod
    def parse(cls, text: str) -> Step:
        """Read it from its notation. Raises `ValueError` for what is none."""
        split = _STEP.fullmatch(text)
        found = _PLACE.fullmatch(split["place"]) if split else None
        if split is None or found is None:
            raise ValueError(
                f"{text!r} is no step of a path. Steps are 'mlp8tc[89]@7', 'mlp8neuron[89]@7', 'mlp8@7', 'mlp8skip@7', "
                "'mlp8error@7', 'attn2[3]@8', 'embed@3', 'bias@7', 'pruned@7' and 'logit[7042]@11', each with or "
                "without ': ' and a number."
            )
        component, layer, number = _named(found)
        contribution = math.nan if split["contribution"] is None else _number(split["contribution"], text)
        return cls(component, layer, number, int(found["pos"]), contribution, int(found["versus"] or -1))

    @property
    def place(self) -> Step:
        """The same step without what it gives: by it, steps of different paths can be compared."""
        return self._replace(contribution=math.nan)

    def resolved(self, length: int) -> Step:
        """The same step in a prompt of so many tokens, its position counted from the beginning. Raises `IndexError`."""
        if not -length <= self.pos < length:
            raise IndexError(f"position {self.pos} of {self.notation()} does not exist: there are {length} tokens.")
        return self._replace(pos=self.pos % length)

    def notation(self, digits: int = 2) -> str:
        """As text, with so many digits of what it gives; with 17 it is read back exactly."""
        written = f"{self._name()}@{self.pos}"
        return written if math.isnan(self.contribution) else f"{written}: {_shown(self.contribution, digits)}"

    def _name(self) -> str:
        match self.component:
            case "logit":
                pair = f"{self.number}-{self.versus}" if self.versus >= 0 else f"{self.number}"
                return f"logit[{pair}]" if self.number >= 0 else "logit"
            case "tc" | "neuron":
                return f"mlp{self.layer}{self.component}[{self.number}]"
            case "skip" | "error":
                return f"mlp{self.layer}{self.component}"
            case "mlp":
                return f"mlp{self.layer}"
            case "attn":
                return f"attn{self.layer}[{self.number}]"
            case "embed" | "bias" | "pruned":
                return self.component

    def __str__(self) -> str:
        return self.notation()


@dataclass(frozen=True)
class Path:
    """A computational path: from what is explained, step by step, back to what gave to it.

    What each step gives is what of the path's beginning has come this way, so that the steps that could follow one
    another, all together, give what that one gives.

    >>> path = Path.parse("mlp8tc[89]@-1: 7.6 <- attn2[2]@8: 0.35 <- mlp0tc[10490]@8: 0.17")
    >>> len(path), path.contribution, path[1].component
    (3, 0.17, 'attn')
    >>> print(path)
    mlp8tc[89]@-1: 7.6 <- attn2[2]@8: 0.35 <- mlp0tc[10490]@8: 0.17
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a path has one step at least: what is explained.")

    @classmethod
    def parse(cls, text: str) -> Path:
        """Read it from its notation, as `str` gives it. Raises `ValueError` that names the step that is none."""
        return cls(tuple(Step.parse(each) for each in text.split("<-")))

    @property
    def contribution(self) -> float:
        """What its last step gives to its first."""
        return self.steps[-1].contribution

    @property
    def places(self) -> tuple[Step, ...]:
        """Its steps without what they give."""
        return tuple(step.place for step in self.steps)

    def resolved(self, length: int) -> Path:
        """The same path in a prompt of so many tokens, positions counted from the beginning. Raises `IndexError`."""
        return Path(tuple(step.resolved(length) for step in self.steps))

    def notation(self, digits: int = 2) -> str:
        """As text, with so many digits of what each step gives; with 17 it is read back exactly."""
        return _ARROW.join(step.notation(digits) for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> Step:
        return self.steps[number]

    def __str__(self) -> str:
        return self.notation()


def _named(found: re.Match[str]) -> tuple[Component, int, int]:
    """Component, layer and number."""
    if found["logit"]:
        return "logit", -1, int(found["token"] or -1)
    if found["attn"]:
        return "attn", int(found["attn"]), int(found["head"])
    if found["mlp"] is None:
        name = found["other"] or found["embed"]
        return next(each for each in COMPONENTS if each == name), -1, -1
    name = found["basis"] or found["rest"] or "mlp"
    return next(each for each in COMPONENTS if each == name), int(found["mlp"]), int(found["feature"] or -1)


def _number(text: str, step: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number: what {step!r} gives is one, or is left out.") from None


def _shown(contribution: float, digits: int) -> str:
    text = f"{contribution:.{digits}}"
    # 120 and not 1.2e+02: people read these.
    return f"{contribution:.0f}" if "e+" in text and abs(contribution) < 1e6 else text
