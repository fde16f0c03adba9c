"""Grid: the cells of a sweep: which layers, positions, heads and neurons each of them patches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lenskit.models.running.which import Which, as_which, indices
from lenskit.models.sites import HEADED, LAYERED, Site, SiteUnavailable
from lenskit.models.text import Text
from lenskit.patching.align import Alignment
from lenskit.patching.swept import Axis

if TYPE_CHECKING:
    from lenskit.models.model import Model

OVER = (
    ("layer", "pos"),
    ("layer", "span"),
    ("layer", "head"),
    ("layer", "head", "pos"),
    ("layer", "neuron"),
    ("layer", "neuron", "pos"),
)
NEURONS = ("mlp_pre", "mlp_post")

Span = str | int | slice | range | Sequence[int]
Spans = Mapping[str, Span] | Iterable[str]
"""Named parts of a prompt: by a part of its text, or by positions. Of a list of texts each names itself."""


class Region(NamedTuple):
    """What one cell patches: all of it at once. `heads` and `neurons` are None for all."""

    layers: tuple[int, ...]
    pos: tuple[int, ...]
    heads: tuple[int, ...] | None = None
    neurons: tuple[int, ...] | None = None


class Choice(NamedTuple):
    """Which part of the whole a person asked for; each None for all."""

    layers: Which = None
    positions: Which = None
    heads: Which = None
    neurons: Which = None
    spans: Spans | None = None
    window: int = 1


class Sizes(NamedTuple):
    """How much there is of a site: heads (0 for a site without), and neurons (0 likewise)."""

    heads: int
    neurons: int


@dataclass(frozen=True)
class Grid:
    """The cells of one sweep over one pair of prompts. Cells are numbered row by row, and made when asked for.

    Attributes:
        axes: the sweep's axes.
        existing: the layers in which the site exists, for windows.
        pos: the positions that a cell patches where they are no axis.
        spans: the positions of each span.
        heads, neurons: those that a cell patches where they are no axis; None for all.
        window: how many layers a cell patches, around its own.
    """

    site: str
    axes: tuple[Axis, ...]
    existing: tuple[int, ...]
    pos: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...] = ()
    heads: tuple[int, ...] | None = None
    neurons: tuple[int, ...] | None = None
    window: int = 1

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(len(axis.ticks) for axis in self.axes)

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def region(self, cell: int) -> Region:
        """What a cell patches."""
        layers, pos, heads, neurons = (), self.pos, self.heads, self.neurons
        for axis, place in zip(self.axes, np.unravel_index(cell, self.shape), strict=True):
            tick = axis.ticks[int(place)]
            if axis.name == "layer":
                layers = windowed(tick, self.window, self.existing)
            elif axis.name == "pos":
                pos = (tick,)
            elif axis.name == "span":
                pos = self.spans[tick]
            elif axis.name == "head":
                heads = (tick,)
            else:
                neurons = (tick,)
        return Region(layers, pos, heads, neurons)

    def coarse_first(self) -> np.ndarray:
        """The cells so that the first ones are spread evenly over the layers, and later ones fill the gaps."""
        layers = self.shape[[axis.name for axis in self.axes].index("layer")]
        turn = np.argsort(np.array([_mirrored(layers - 1 - i) for i in range(layers)]), kind="stable")
        place = np.empty(layers, dtype=np.int64)
        place[turn] = np.arange(layers)
        each = np.arange(len(self)) // (len(self) // layers)  # the layer is the first axis
        return np.argsort(place[each], kind="stable")


def windowed(layer: int, window: int, existing: Sequence[int]) -> tuple[int, ...]:
    """The layers of a window around a layer, of those that exist: as in ROME, `window // 2` before it."""
    first = layer - window // 2
    return tuple(each for each in existing if first <= each < first + window)


def _mirrored(number: int) -> float:
    """Its binary digits behind the point, in reverse: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput)."""
    share, part = 0.0, 0.5
    while number:
        share, number, part = share + part * (number & 1), number >> 1, part / 2
    return share


def check_over(site: str, over: Sequence[str]) -> tuple[str, ...]:
    """The axes, if a site can be swept over them. Raises `ValueError` with those that it can."""
    made = (over,) if isinstance(over, str) else tuple(over)
    lacking = ({"head"} if site not in HEADED else set()) | ({"neuron"} if site not in NEURONS else set())
    can = [each for each in OVER if not lacking & set(each)]
    if made not in can:
        listed = ", ".join(map(repr, can))
        raise ValueError(f"{site!r} cannot be swept over {made!r}. It can be over {listed}.")
    return made


def layers_of(model: Model, site: str, choice: Which) -> tuple[list[int], list[int]]:
    """The layers in which a site exists, and those of them that were chosen. Raises `SiteUnavailable` if in none."""
    if site not in LAYERED:
        raise SiteUnavailable(f"{site!r} cannot be swept: it is none of the sites in each layer, {', '.join(LAYERED)}.")
    existing = model.anatomy.layers_of(site)
    if not existing:
        model.anatomy.spot(Site(site, 0))  # raises with the reason
    if choice is None:
        return existing, existing
    chosen = indices(as_which("layers", choice), model.n_layers, "layer")
    for layer in chosen:
        model.anatomy.spot(Site(site, layer))
    return existing, sorted(chosen)


def grid_of(
    site: str,
    over: tuple[str, ...],
    layers: tuple[list[int], list[int]],
    sizes: Sizes,
    aligned: Alignment,
    tokens: tuple[Sequence[int], Sequence[int]],
    text: Text,
    choice: Choice,
) -> Grid:
    """The grid that was asked for. `layers` as `layers_of` gives them; `tokens`: of the patched prompt and the source.

    Raises `IndexError` and `ValueError` for what does not exist.
    """
    pos = _positions(choice.positions, aligned)
    heads = _chosen(choice.heads, sizes.heads, "head", site)
    neurons = _chosen(choice.neurons, sizes.neurons, "neuron", site)
    spans = spans_of(choice.spans, tokens, aligned, text) if "span" in over else {}
    if "span" in over and not spans:
        raise ValueError("a sweep over spans needs them: spans={'subject': ' Mary', 'end': [-1]}.")
    if choice.window < 1:
        raise ValueError(f"window={choice.window}: a cell patches at least one layer.")
    ticks: dict[str, Sequence[int]] = {
        "layer": layers[1],
        "pos": pos,
        "span": range(len(spans)),
        "head": range(sizes.heads) if heads is None else heads,
        "neuron": range(sizes.neurons) if neurons is None else neurons,
    }
    names = {"pos": text.str_tokens([tokens[0][p] for p in pos]), "span": list(spans)}
    axes = [Axis(name, tuple(ticks[name]), tuple(names.get(name) or map(str, ticks[name]))) for name in over]
    return Grid(site, tuple(axes), tuple(layers[0]), tuple(pos), tuple(spans.values()), heads, neurons, choice.window)


def _positions(which: Which, aligned: Alignment) -> list[int]:
    if which is None:
        return aligned.base
    chosen = sorted(indices(as_which("positions", which), aligned.length, "position"))
    if lost := sorted(set(chosen) - set(aligned.base)):
        raise ValueError(f"position {lost[0]} has no partner in the other prompt: align= pairs {aligned.base}.")
    return chosen


def _chosen(which: Which, size: int, what: str, site: str) -> tuple[int, ...] | None:
    if which is None:
        return None
    if not size:
        raise ValueError(f"{site!r} has no {what}s to choose: leave out {what}s=.")
    return tuple(sorted(indices(as_which(f"{what}s", which), size, what)))


def spans_of(
    spans: Spans | None, tokens: tuple[Sequence[int], Sequence[int]], aligned: Alignment, text: Text
) -> dict[str, tuple[int, ...]]:
    """The positions of each named span in the patched prompt.

    A part of text is looked for in the patched prompt, and where it is not there, in the source: then the partners of
    its positions are meant. Raises `ValueError` where it is in neither, or several times.
    """
    if spans is None:
        return {}
    named = spans if isinstance(spans, Mapping) else {each: each for each in spans}
    return {name: _span(name, each, tokens, aligned, text) for name, each in named.items()}


def _span(
    name: str, span: Span, tokens: tuple[Sequence[int], Sequence[int]], aligned: Alignment, text: Text
) -> tuple[int, ...]:
    base, source = tokens
    if not isinstance(span, str):
        found = sorted(indices(as_which(f"span {name!r}", span), len(base), "position"))
    else:
        try:
            found = list(range(*text.span(list(base), span).indices(len(base))))
        except ValueError as error:
            if "is not in this prompt" not in str(error):
                raise
            partners = {s: b for b, s in aligned.pairs}
            there = range(*text.span(list(source), span).indices(len(source)))
            found = sorted(partners[pos] for pos in there if pos in partners)
    lost = sorted(set(found) - set(aligned.base))
    if lost or not found:
        which = f"position {lost[0]}" if lost else "a part of the source that"
        raise ValueError(f"span {name!r}: {which} has no partner in the other prompt: pair it with align=.")
    return tuple(found)
