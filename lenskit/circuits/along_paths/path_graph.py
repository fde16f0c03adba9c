"""Paths as a graph: their features and embeddings joined past the heads, and what the paths leave out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lenskit.circuits.along_paths.notation import Path, Step
from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph

if TYPE_CHECKING:
    from lenskit.circuits.along_paths.paths import Paths

_Steps = tuple[Step, ...]
_Next = dict[_Steps, dict[Step, Step]]
"""By the steps of a path so far, what comes after them, by its place."""

_VALUED = ("logit", "tc", "neuron")


class _Key(NamedTuple):
    """A node, so that sorted ones are in the order of a graph."""

    layer: int
    kind: int
    pos: int
    feature: int


class _Effect(NamedTuple):
    """What a step gives to the nearest valued step before it, in the units of that."""

    source: Step
    target: Step
    weight: float


def errors(paths: Paths) -> tuple[Path, ...]:
    """What `Paths.errors` gives."""
    _check_uncapped(paths)
    found, missed = list[Path](), _missed(paths)
    for steps, kept in _explained(paths.paths).items():
        ends = missed[steps]
        told = sum(step.contribution for step in (kept | ends).values())
        pruned = Step("pruned", -1, -1, steps[-1].pos, steps[-1].contribution - told)
        found += [Path((*steps, end)) for end in (*ends.values(), pruned)]
    return tuple(found)


def graph_of(paths: Paths) -> Graph:
    """What `Paths.graph` gives."""
    _check_uncapped(paths)
    weights, biases = defaultdict[tuple[_Key, _Key], float](float), defaultdict[_Key, float](float)
    keys = {_key(paths, step.place) for path in paths.paths for step in path.steps if step.component in _VALUED}
    keys |= {_key(paths, paths.start.place)}
    keys |= {_Key(-1, EMBED, pos, token) for pos, token in enumerate(paths.tokens)}
    for effect in _effects(paths):
        target = _key(paths, effect.target)
        if effect.source.component == "bias":
            biases[target] += effect.weight
            continue
        keys.add(source := _key(paths, effect.source))
        weights[source, target] += effect.weight
    order = sorted(keys)
    number = {key: n for n, key in enumerate(order)}
    source, target = (np.array([number[pair[end]] for pair in weights], dtype=int) for end in (0, 1))
    weight = np.array(list(weights.values()), dtype=float)
    layer, kind, pos, feature = np.array(order).T
    value, activation = _values(paths, order)
    bias = np.where(np.isnan(value), np.nan, [biases[key] for key in order])
    rest = value - bias - np.bincount(target, weight, len(order))
    size = np.bincount(target, np.abs(weight), len(order)) + np.abs(rest)
    return Graph(
        paths.tokens,
        paths.pieces,
        *(kind, layer, pos, feature, value, activation),
        *(source, target, weight, bias, rest, size),
        weights=np.where(kind == LOGIT, 1.0, 0.0),
        labels=(paths.label,),
        layers=paths.layers,
        n_layers=len(paths.layers),
        provenance=paths.provenance,
    )


def _effects(paths: Paths) -> Iterator[_Effect]:
    """What every step on the paths, or missed, gives to the next valued one, each way once."""
    missed, seen = _missed(paths), set[_Steps]()
    for steps, kept in _explained(paths.paths).items():
        nearest = max(n for n, step in enumerate(steps) if n == 0 or step.component in _VALUED)
        owner = steps[nearest]
        for step in (kept | missed[steps]).values():
            # Two paths that reach the same feature go on from it by the same ways: they count once.
            way = tuple(each.place for each in (*steps[nearest:], step))
            if way in seen or step.component in ("attn", "skip"):
                continue
            seen.add(way)
            times = 1.0
            if nearest:
                value = paths.features[owner.place].value
                times = value / owner.contribution if owner.contribution else 0.0
            yield _Effect(step.place, owner.place, step.contribution * times)


def _explained(paths: Iterable[Path]) -> _Next:
    """The steps that the paths explain, each with those that come after it."""
    found = _Next()
    for path in paths:
        for n in range(1, len(path)):
            found.setdefault(path.steps[:n], {})[path[n].place] = path[n]
    return found


def _missed(paths: Paths) -> defaultdict[_Steps, dict[Step, Step]]:
    found = defaultdict[_Steps, dict[Step, Step]](dict)
    for path in paths.missed:
        found[path.steps[:-1]][path[-1].place] = path[-1]
    return found


def _key(paths: Paths, step: Step) -> _Key:
    """The node that a step is."""
    if step == paths.start.place:
        return _Key(len(paths.layers), LOGIT, step.pos, 0)
    if step.component == "embed":
        return _Key(-1, EMBED, step.pos, paths.tokens[step.pos])
    if step.component in ("mlp", "error"):
        return _Key(step.layer, ERROR, step.pos, -1)
    return _Key(step.layer, FEATURE, step.pos, step.number)


def _values(paths: Paths, order: list[_Key]) -> tuple[np.ndarray, np.ndarray]:
    """Of each node its value and its activation; nan of one that has none."""
    known = {_key(paths, step): each for step, each in paths.features.items() if step != paths.start.place}
    found = np.full((2, len(order)), np.nan)
    for n, key in enumerate(order):
        if key in known:
            found[:, n] = known[key]
        elif key.kind == LOGIT:
            found[0, n] = paths.start.contribution
    return found[0], found[1]


def _check_uncapped(paths: Paths) -> None:
    if paths.capped:
        raise ValueError("contributions that are capped do not add up: find the paths with capped=False for this.")
