"""Filters: which steps a search of paths may take, and which paths of a set are wanted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lenskit.circuits.along_paths.notation import COMPONENTS, Component, Path, Step

Numbers = int | Collection[int]


@dataclass(frozen=True)
class StepFilter:
    """Some steps, by what they are and where; `~` makes it all the others.

    What is not said may be anything. A layer, a head and so on are one number or several: `range(3, 8)`, `{0, 4}`.

    Attributes:
        component: "tc", "neuron", "mlp", "skip", "error", "attn", "embed", "bias" or "logit"; one or several.
        layer: the layer; embeddings, biases and logits have none.
        pos: the position, from the end where it is negative; of a head, the one that it looks at.
        head: which head: only heads have one.
        feature: which feature or neuron: only these have one.
        others: whether all other steps are meant.

    Raises `ValueError` for a component that does not exist.

    >>> early_heads = StepFilter(component="attn", layer=range(4))
    >>> not_from_the_first_token = ~StepFilter(component="attn", pos=0)
    >>> early_heads.matches(Step.parse("attn2[3]@8")), early_heads.matches(Step.parse("attn7[3]@8"))
    (True, False)
    """

    component: Component | Collection[Component] | None = None
    layer: Numbers | None = None
    pos: Numbers | None = None
    head: Numbers | None = None
    feature: Numbers | None = None
    others: bool = False

    def __post_init__(self) -> None:
        unknown = [each for each in self._components if each not in COMPONENTS]
        if unknown:
            raise ValueError(f"component {unknown[0]!r} does not exist: components are {', '.join(COMPONENTS)}.")

    def __invert__(self) -> StepFilter:
        return replace(self, others=not self.others)

    def matches(self, step: Step, length: int | None = None) -> bool:
        """Whether it is one of these steps. length: of the prompt, by which negative positions are counted."""
        component, layer, number, pos = (np.array([each]) for each in _columns(step))
        return bool(self.mask(component, layer, number, pos, length)[0])

    def mask(
        self, component: np.ndarray, layer: np.ndarray, number: np.ndarray, pos: np.ndarray, length: int | None = None
    ) -> np.ndarray:
        """(step,) which of many steps, of which each column is given; components by their place in `COMPONENTS`."""
        found = np.ones(len(component), dtype=bool)
        if self.component is not None:
            found &= np.isin(component, [COMPONENTS.index(each) for each in self._components])
        if self.layer is not None:
            found &= np.isin(layer, _listed(self.layer))
        if self.pos is not None:
            wanted = np.array(_listed(self.pos), dtype=np.int64)
            if length is not None:
                wanted, pos = _counted(wanted, length), _counted(pos, length)
            found &= np.isin(pos, wanted)
        for wanted, having in ((self.head, ("attn",)), (self.feature, ("tc", "neuron"))):
            if wanted is not None:
                found &= np.isin(component, [COMPONENTS.index(each) for each in having])
                found &= np.isin(number, _listed(wanted))
        return ~found if self.others else found

    @property
    def _components(self) -> list[str]:
        if self.component is None:
            return []
        return [self.component] if isinstance(self.component, str) else list(self.component)


def contains(path: Path, part: Sequence[StepFilter], length: int | None = None) -> bool:
    """Whether steps that follow each other somewhere in a path match the filters, one by one."""
    starts = range(len(path) - len(part) + 1)
    return any(_follow(path.steps[start:], part, length) for start in starts)


def ends_in(path: Path, part: Sequence[StepFilter], length: int | None = None) -> bool:
    """Whether a path's last steps match the filters, one by one."""
    return len(part) <= len(path) and _follow(path.steps[len(path) - len(part) :], part, length)


def _follow(steps: Sequence[Step], part: Sequence[StepFilter], length: int | None) -> bool:
    return all(each.matches(step, length) for each, step in zip(part, steps, strict=False))


def _columns(step: Step) -> tuple[int, int, int, int]:
    return COMPONENTS.index(step.component), step.layer, step.number, step.pos


def _listed(numbers: Numbers) -> list[int]:
    return [int(numbers)] if isinstance(numbers, int | np.integer) else [int(each) for each in numbers]


def _counted(pos: np.ndarray, length: int) -> np.ndarray:
    """Positions counted from the beginning; one that the prompt does not have stays what it is."""
    return np.where((pos < 0) & (pos >= -length), pos + length, pos)
