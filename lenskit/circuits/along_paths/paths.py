"""Paths: by which ways through features, heads and embeddings a feature or a logit came about, the best of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lenskit.circuits.along_paths.notation import Path, Step
from lenskit.circuits.along_paths.path_filters import StepFilter, contains, ends_in
from lenskit.circuits.along_paths.path_start import Start, StartLike, start_of
from lenskit.circuits.along_paths.path_steps import ENDS, HeldPrompt, Terms
from lenskit.circuits.along_paths.path_vectors import Vector
from lenskit.circuits.attributing.targets import Token, names_of
from lenskit.models.batch import Prompt
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.circuits.graph import Graph
    from lenskit.models.model import Model


class FeatureValue(NamedTuple):
    """What a feature on a path is: its value, which is its pre-activation, and how active it is."""

    value: float
    activation: float


@dataclass(frozen=True, eq=False)
class Paths:
    """The best paths of a feature or a logit, shorter ones first, and of one length the best first.

    Attributes:
        paths: all of them; each begins with `start`.
        start: what is explained, with its value.
        label: its name.
        tokens, pieces: the prompt's token ids and texts.
        missed: for each step that was explained, the paths that end with what is no sum of anything: what dictionaries
            miss, MLPs without features, biases. Empty where contributions are capped.
        features: the value and activation of each feature on a path, by its place.
        capped: whether contributions are capped.
        layers: of each layer what its features are: "transcoder", "neurons", or "none".
        provenance: where they come from.

    >>> paths = lk.circuits.best_paths(model, prompt, "8.89@-1", transcoders)  # doctest: +SKIP
    >>> print(paths)                                                          # doctest: +SKIP
    >>> lk.widgets.CircuitGraph(paths.graph())                                # doctest: +SKIP
    """

    paths: tuple[Path, ...]
    start: Step
    label: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    missed: tuple[Path, ...]
    features: Mapping[Step, FeatureValue]
    capped: bool
    layers: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    # Some of them

    def of_length(self, steps: int) -> Paths:
        """Those of so many steps, the start among them."""
        return replace(self, paths=tuple(path for path in self.paths if len(path) == steps))

    def containing(self, *part: StepFilter) -> Paths:
        """Those in which, somewhere, steps that follow each other match these filters, one by one."""
        return replace(self, paths=tuple(path for path in self.paths if contains(path, part, len(self.tokens))))

    def without(self, *part: StepFilter) -> Paths:
        """Those in which no steps that follow each other match these filters, one by one."""
        return replace(self, paths=tuple(path for path in self.paths if not contains(path, part, len(self.tokens))))

    def ending(self, *part: StepFilter) -> Paths:
        """Those whose last steps match these filters, one by one."""
        return replace(self, paths=tuple(path for path in self.paths if ends_in(path, part, len(self.tokens))))

    # What they leave out

    @property
    def errors(self) -> tuple[Path, ...]:
        """What these paths do not tell of each step that they explain, as paths that end with it.

        What dictionaries miss (`mlp5error`, or `mlp5` where there is none), biases (`bias`), and what gives as well and
        is on none of these paths (`pruned`): together with the paths that go on from a step they give what it gives.

        Raises `ValueError` where contributions are capped: then they do not add up.
        """
        from lenskit.circuits.along_paths.path_graph import errors

        return errors(self)

    def graph(self) -> Graph:
        """These paths as an attribution graph, in which features, embeddings and errors are joined past the heads.

        A graph has no heads: of a path, each edge leads from a feature or an embedding to the next feature (or what is
        explained), whatever heads and skips are between, and paths that join the same two add up. The start is the
        graph's target. What dictionaries miss are errors, and `bias` and `rest` hold the biases and what is pruned;
        features at which the paths stop are all `rest`.

        Raises `ValueError` where contributions are capped: then they do not add up.
        """
        from lenskit.circuits.along_paths.path_graph import graph_of

        return graph_of(self)

    # For people

    def to_pandas(self) -> pd.DataFrame:
        """One line for each path: `path`, `steps`, `contribution`, and its last step: `component layer number pos`."""
        import pandas as pd

        rows = [
            (path.notation(), len(path), path.contribution, last.component, last.layer, last.number, last.pos)
            for path in self.paths
            for last in [path[-1]]
        ]
        columns = ["path", "steps", "contribution", "component", "layer", "number", "pos"]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def __getitem__(self, number: int) -> Path:
        return self.paths[number]

    def __str__(self) -> str:
        return "\n".join(map(str, self.paths))

    def __repr__(self) -> str:
        longest = max(map(len, self.paths), default=1)
        best = f", such as {max(self.paths, key=lambda path: len(path))}" if self.paths else ""
        capped = ", capped" if self.capped else ""
        return f"Paths({self.label}: {len(self):,} of up to {longest} steps{capped}{best})"


def best_paths(
    model: Model,
    prompt: Prompt,
    start: StartLike,
    transcoders: Transcoder | Iterable[Transcoder] = (),
    *,
    token: Token | None = None,
    versus: Token | None = None,
    depth: int = 3,
    branches: int = 5,
    capped: bool = False,
    keep: StepFilter | Iterable[StepFilter] = (),
    neurons: bool = True,
) -> Paths:
    """The best paths backwards from a feature or a logit: through features, heads and the positions they look at.

    Attention patterns and what norms divide by are held as they are on this prompt. Then what is explained is a sum of
    what the token's embedding, each head from each position, and each active feature of an earlier layer have given
    directly; and so is each of these, but for embeddings. What a step gives is counted in the units of the start: the
    parts of a feature's value are multiplied with what the feature gives. The search is greedy: of all steps that could
    follow the paths of one length, those that give most make the paths of the next, so that a long path is missed whose
    beginning is not among the best. Steps that lower the start give less than nothing, and come last.

    Args:
        model: the model, of any architecture whose heads can be told apart.
        prompt: one text, or its token ids.
        start: a feature, `"8.89@-1"` or `"mlp8tc[89]@-1"`; or `"logit"`, the last position's, `"logit@5"`,
            `"logit[7042]@5"`. A position is counted from the end where it is negative.
        transcoders: dictionaries of its MLPs, with or without skip, or cross-layer ones.
        token: the token whose logit is meant, by default the likeliest; with `versus`, the difference of two.
        depth: how many steps a path goes back at most.
        branches: how many paths of each length are kept.
        capped: whether a step gives no more than the features that come after it on its path give themselves, of the
            dictionaries, which is what is lost when it is set to zero: a feature does not fall below 0.
        keep: filters that all steps after the start must match; what they drop counts as pruned.
        neurons: whether the MLPs without a dictionary are taken apart into their neurons; else each is one step,
            `mlp12@7`, that ends a path.

    A dictionary's skip connection is a step by itself, `mlp8skip@7`, which leads on to what its layer reads. What an
    MLP writes and its dictionary misses, `mlp8error@7`, and all biases together, `bias@7`, are steps that end a path.

    Memory: one forward that keeps what a gradient needs, all attention patterns among it, and a few numbers for each
    step that could follow one path.

    Raises:
        SiteUnavailable: heads cannot be told apart, patterns or norms cannot be held, or the parts do not add up.
        ValueError: more than one prompt, no start, a start that is not active with `capped`, depth or branches under 1.
        IndexError: a feature or a position that does not exist.

    Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024), section 4.2.

    >>> paths = lk.circuits.best_paths(model, "The capital of France is", "22.1144@-1", transcoders)  # doctest: +SKIP
    >>> no_sink = ~lk.circuits.StepFilter(component="attn", pos=0)                                   # doctest: +SKIP
    >>> lk.circuits.best_paths(model, prompt, "logit", transcoders, token=" Paris", keep=no_sink)    # doctest: +SKIP
    """
    if depth < 1 or branches < 1:
        raise ValueError(f"depth={depth!r}, branches={branches!r}: one at least.")
    dictionaries = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    filters = [keep] if isinstance(keep, StepFilter) else list(keep)
    tokens = model.batch(prompt).tokens
    if len(tokens) != 1:
        raise ValueError(f"paths are of one prompt, and these are {len(tokens)}: ask for each by itself.")
    held = HeldPrompt.of(model, tokens, dictionaries, neurons)
    begin = start_of(held, start, token, versus)
    search = _Search(held, begin, filters, branches, capped)
    search.walk(depth)
    question = {
        "start": begin.step.notation(6),
        "depth": depth,
        "branches": branches,
        "capped": capped,
        "keep": [repr(each) for each in filters],
        "neurons": neurons,
    }
    origin = model.origin(model.edits, paths=question, dictionaries=[repr(each) for each in dictionaries])
    return search.result(origin.as_dict())


class _Open(NamedTuple):
    """A path that is not at its end.

    Attributes:
        steps: its steps.
        before: the vector that its last step gives to; None of the start.
        last: its last step, without caps.
        low, high: between what the next step's contribution is capped.
    """

    steps: tuple[Step, ...]
    before: Vector | None
    last: Step
    low: float
    high: float


class _Search:
    """The search from one start, level by level."""

    def __init__(
        self, held: HeldPrompt, start: Start, filters: Sequence[StepFilter], branches: int, capped: bool
    ) -> None:
        self.held, self.start, self.filters, self.branches, self.capped = held, start, filters, branches, capped
        self.paths, self.missed = list[Path](), list[Path]()
        self.features = dict[Step, FeatureValue]()
        if capped and start.step.component == "tc" and start.activation <= 0:
            raise ValueError(
                f"{start.label} is not active on this prompt: zero-ablation of what gives to it changes nothing. Leave "
                "capped=True out to see what gives to its pre-activation."
            )
        if start.step.component != "logit":
            self.features[start.step.place] = FeatureValue(start.step.contribution, start.activation)

    def walk(self, depth: int) -> None:
        """Look so many steps back."""
        level = [self._open((self.start.step,), None, self.start.step, -np.inf, np.inf)]
        for _ in range(depth):
            level = self._next(level)
            self.paths += [Path(each.steps) for each in level]

    def _next(self, level: Sequence[_Open]) -> list[_Open]:
        """The best paths of one step more."""
        found = list[tuple[float, _Open, Vector, Step]]()
        for path in level:
            vector = self.start.vector if path.before is None else self.held.behind(path.before, path.last)
            if vector is not None:
                terms = self.held.terms(vector, path.last.contribution)
                self._note_missed(path, terms)
                capped = terms.contribution.clip(path.low, path.high)
                found += [(float(capped[i]), path, vector, terms.step(i)) for i in self._best(terms, capped)]
        found.sort(key=lambda each: -each[0])  # stable: of equals the first stays first
        return [self._longer(*each) for each in found[: self.branches]]

    def _best(self, terms: Terms, contributions: np.ndarray) -> list[int]:
        allowed = terms.contribution != 0
        for each in self.filters:
            allowed &= each.mask(terms.component, terms.layer, terms.number, terms.pos, self.held.length)
        places = np.flatnonzero(allowed)
        order = np.argsort(-contributions[places], kind="stable")
        return places[order[: self.branches]].tolist()

    def _longer(self, contribution: float, path: _Open, vector: Vector, step: Step) -> _Open:
        if step.component in ("tc", "neuron") and step.place not in self.features:
            self.features[step.place] = FeatureValue(self.held.made_by(step).value, self.held.activation(step))
        shown = step._replace(contribution=contribution)
        return self._open((*path.steps, shown), vector, step, path.low, path.high)

    def _open(self, steps: tuple[Step, ...], before: Vector | None, last: Step, low: float, high: float) -> _Open:
        """A path with the caps that its last step adds."""
        given = steps[-1].contribution
        if self.capped and last.component == "tc":
            low, high = (max(low, given), high) if given < 0 else (low, min(high, given))
        return _Open(steps, before, last, low, high)

    def _note_missed(self, path: _Open, terms: Terms) -> None:
        if not self.capped:
            ends = [terms.step(i) for i in terms.places(*ENDS)]
            self.missed += [Path((*path.steps, step)) for step in ends if step.contribution]

    def result(self, provenance: Mapping[str, Any]) -> Paths:
        """What was found."""
        held, model = self.held, self.held.model
        ids = held.replacement.tokens[0].tolist()
        return Paths(
            paths=tuple(self.paths),
            start=self.start.step,
            label=self.start.label,
            tokens=tuple(ids),
            pieces=names_of(model, ids),
            missed=tuple(self.missed),
            features=self.features,
            capped=self.capped,
            layers=held.put.layers,
            provenance=provenance,
        )
