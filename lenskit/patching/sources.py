"""Sources: what a sweep puts in: another prompt's activations, zeros, a mean, those of random prompts, or noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.edits import Add, Edit
from lenskit.models.run import Run
from lenskit.models.running.which import as_which, indices
from lenskit.models.sites import axes_of
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engines.base import has_stream, has_tail
from lenskit.patching.engines.ends import Ends

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.patching.grid import Region, Span

Values = Mapping[int, Tensor]
"""A site's activations by layer, of one prompt: (pos, ...), or (head, query, key) for scores and pattern."""


def ended(
    model: Model, tokens: Tensor, keep: list[tuple[str, int]], read: Sequence[int], edits: Iterable[Edit] = ()
) -> tuple[Run, Ends]:
    """A run that keeps some sites, and its ends where it is read: nothing is unembedded that nobody reads."""
    if not (has_stream(model) and has_tail(model)):
        run = model.run(tokens, keep=keep, edits=edits)
        return run, Ends(None, run.logits[:, list(read)])
    last = ("resid_post", model.n_layers - 1)
    run = model.run(tokens, keep=[*dict.fromkeys([*keep, last])], edits=edits, stop_at=last)
    return run, Ends(run[last][:, list(read)])


@dataclass(frozen=True, eq=False)
class Here:
    """What a source is asked for: a site in some layers, to be put into a prompt (1, pos) that is read at `read`."""

    model: Model
    tokens: Tensor
    site: str
    layers: Sequence[int]
    read: Sequence[int]

    @property
    def places(self) -> list[tuple[str, int]]:
        """The site in each of the layers."""
        return [(self.site, layer) for layer in self.layers]

    def values(self, tokens: Tensor) -> Values:
        """The site's activations of a prompt."""
        return self.of(self.model.run(tokens, keep=self.places, stop_at=(self.site, max(self.layers))))

    def of(self, run: Run) -> Values:
        """The site's activations in a run."""
        return {layer: run[self.site, layer][0] for layer in self.layers}

    @cached_property
    def own(self) -> Values:
        """The site's activations of the patched prompt itself."""
        return self.values(self.tokens)

    @property
    def by_query(self) -> bool:
        """Whether the site's positions are the queries of an attention, beside its keys."""
        return axes_of(self.site).pos == 2


@dataclass(frozen=True, eq=False)
class Put:
    """What is put in, ready to be cut into cells.

    Attributes:
        sheets: the activations to choose from; one, but for resampling.
        draws: how often each cell is computed, each time with other activations or noise; its value is the mean.
        seed: of the choice of a sheet for each cell and draw; None where there is one sheet.
        noise: for each draw a change that every cell makes besides.
        noised: for each draw the ends of the prompt with noise, in which nothing is restored.
    """

    sheets: tuple[Values, ...]
    draws: int = 1
    seed: int | None = None
    noise: tuple[Change, ...] = ()
    noised: tuple[Ends, ...] = ()

    def cell(self, site: str, region: Region, pos: Mapping[int, tuple[int, ...]], number: int, draw: int) -> Cell:
        """The cell that patches a region. `pos`: the positions of it that differ, by layer; layers without are out."""
        sheet = self.sheets[self._drawn(number)[draw]]
        changes = [_change(site, layer, at, sheet[layer], region) for layer, at in pos.items() if at]
        if self.noise:
            changes = [*_beside(self.noise[draw], changes), *changes]
        return Cell(tuple(changes))

    def _drawn(self, number: int) -> list[int]:
        """Which sheet each draw of a cell takes: none twice, where they are drawn."""
        if self.seed is None:
            return [0] * self.draws
        # A generator of its own, so that a cell draws the same whichever cells are computed, and in whatever order.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(len(self.sheets), generator=generator)[: self.draws].tolist()


def _change(site: str, layer: int, pos: tuple[int, ...], values: Tensor, region: Region) -> Change:
    at = list(pos)
    if axes_of(site).pos == 2:
        part = values[:, at] if region.heads is None else values[list(region.heads)][:, at]
    else:
        part = values[at]
        if region.heads is not None:
            part = part[:, list(region.heads)]
        if region.neurons is not None:
            part = part[..., list(region.neurons)]
    return Change(site, layer, pos, part, region.heads, region.neurons)


def _beside(noise: Change, changes: Sequence[Change]) -> list[Change]:
    """The noise where nothing is restored: what a cell puts in at the same place stands."""
    restored = {p for each in changes if (each.site, each.layer) == (noise.site, noise.layer) for p in each.pos}
    rows = [row for row, pos in enumerate(noise.pos) if pos not in restored]
    if not rows:
        return []
    return [Change(noise.site, noise.layer, tuple(noise.pos[row] for row in rows), noise.value[rows])]


# What a person may ask for


@dataclass(frozen=True)
class Zeros:
    """Zero ablation: every cell's activations are set to 0. `source="zero"`."""

    def put(self, here: Here) -> Put:
        """Zeros in the shapes of the prompt's own activations."""
        return Put(({layer: torch.zeros_like(each) for layer, each in here.own.items()},))


@dataclass(frozen=True)
class Means:
    """Mean ablation: every cell's activations are set to their mean over some prompts.

    Args:
        prompts: the prompts, texts or rows of ids. None for the patched prompt itself, over its positions:
            `source="mean"`.
        over: "position", the mean over the prompts at each position, which needs prompts of the patched one's length;
            or "all", one mean over all positions of all prompts.

    >>> sweep(model, prompt, site="z", metric=metric, over=("layer", "head"), source=Means(prompts))  # doctest: +SKIP
    """

    prompts: tuple[Prompt, ...] | None = None
    _: KW_ONLY
    over: Literal["position", "all"] = "position"

    def __post_init__(self) -> None:
        if self.over not in ("position", "all"):
            raise ValueError(f"over={self.over!r}: a mean is over 'position', or over 'all'.")
        object.__setattr__(self, "prompts", _prompts(self.prompts, "Means"))

    def put(self, here: Here) -> Put:
        """The means, summed up prompt by prompt."""
        by_position = self.over == "position" and self.prompts is not None
        if here.by_query and not by_position:
            raise ValueError(f"{here.site!r} has another width for each prompt: its mean needs over='position'.")
        rows = [here.tokens] if self.prompts is None else _rows(here, self.prompts, same_length=by_position)
        sums, count = dict[int, Tensor](), 0
        for row in rows:
            values = here.own if row is here.tokens else here.values(row)
            for layer, each in values.items():
                wide = each.to(torch.promote_types(each.dtype, torch.float32))
                part = wide if by_position else wide.sum(0, keepdim=True)
                sums[layer] = sums[layer] + part if layer in sums else part.clone()
            count += 1 if by_position else row.shape[1]
        length = here.tokens.shape[1]
        means = {layer: each / count for layer, each in sums.items()}
        return Put(({layer: m if by_position else m.expand(length, *m.shape[1:]) for layer, m in means.items()},))


@dataclass(frozen=True)
class Resampled:
    """Resampling ablation: every cell's activations come from another prompt, drawn at random from some.

    Args:
        prompts: the prompts to draw from, of the patched one's length.
        draws: how many prompts to draw for each cell; its value is the mean over them. At most all of them.
        seed: of the draw.

    Source: Chan et al., "Causal scrubbing" (2022).
    """

    prompts: tuple[Prompt, ...]
    _: KW_ONLY
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        made = _prompts(self.prompts, "Resampled")
        object.__setattr__(self, "prompts", made)
        if not 1 <= self.draws <= len(made or ()):
            raise ValueError(f"draws={self.draws}: at least 1, and at most the {len(made or ())} prompts there are.")

    def put(self, here: Here) -> Put:
        """The activations of all prompts to draw from."""
        sheets = tuple(here.values(row) for row in _rows(here, self.prompts, same_length=True))
        return Put(sheets, self.draws, self.seed)


@dataclass(frozen=True)
class Noised:
    """Causal tracing: the embeddings of some tokens are corrupted by noise, and clean states are put back.

    The patched prompt is the clean one with noise; each cell restores its part to what it is without noise. For a
    range of layers use `window=`, as ROME does for `attn_out` and `mlp_out`.

    Args:
        positions: the tokens to corrupt: positions, or a part of the text.
        scale: the noise's standard deviation, in those of the entries of the embedding matrix.
        draws: over how many draws of the noise to average.
        seed: of the noise, which is drawn on the CPU and so is the same on every device.

    Source: Meng et al., "Locating and Editing Factual Associations in GPT" (ROME, 2022).

    >>> sweep(model, "The Space Needle is in", site="mlp_out", metric=lk.prob(" Seattle"), window=10,
    ...       source=Noised("The Space Needle"))                                       # doctest: +SKIP
    """

    positions: Span
    _: KW_ONLY
    scale: float = 3.0
    draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or not self.scale > 0:
            raise ValueError(f"noise has a scale above 0 and at least one draw, not {self.scale} and {self.draws}.")

    def put(self, here: Here) -> Put:
        """The clean activations, and the noise as a change of what enters the first block."""
        model, tokens = here.model, here.tokens
        row = tokens[0].tolist()
        if isinstance(self.positions, str):
            pos = list(range(*model.text.span(row, self.positions).indices(len(row))))
        else:
            pos = sorted(indices(as_which("positions", self.positions), len(row), "position"))
        size = self.scale * _spread(model)
        generator = torch.Generator().manual_seed(self.seed)
        width = model.run(tokens, keep="embed", stop_at="embed")["embed"].shape[-1]
        changes, ends = list[Change](), list[Ends]()
        for _ in range(self.draws):
            noise = size * torch.randn(len(pos), width, generator=generator)
            run, end = ended(model, tokens, [("resid_pre", 0)], here.read, [Add("embed", noise, pos=pos)])
            changes.append(Change("resid_pre", 0, tuple(pos), run["resid_pre", 0][0, pos]))
            ends.append(end)
        return Put((here.own,), self.draws, None, tuple(changes), tuple(ends))


Source = Zeros | Means | Resampled | Noised


def as_source(source: Source | Literal["zero", "mean"] | None) -> Source | None:
    """What is put in; None for the other prompt. Raises `TypeError` for what is no source."""
    named: dict[str, Source] = {"zero": Zeros(), "mean": Means()}
    if isinstance(source, str) and source in named:
        return named[source]
    if source is None or isinstance(source, Source):
        return source
    raise TypeError(
        f"source={source!r}: leave it out to take the other prompt, or give 'zero', 'mean', Means(prompts), "
        "Resampled(prompts) or Noised(positions), from lenskit.patching.sources."
    )


@torch.no_grad()
def _spread(model: Model) -> float:
    """The standard deviation of the entries of the embedding matrix."""
    return float(model.weights.W_E.tensor().float().std())


def _prompts(given: Sequence[Prompt] | None, name: str) -> tuple[Prompt, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) or not given:
        raise TypeError(f"{name} takes a list of prompts, and not {given!r}.")
    return tuple(given)


def _rows(here: Here, prompts: Sequence[Prompt], same_length: bool) -> list[Tensor]:
    rows, length = list[Tensor](), here.tokens.shape[1]
    for n, prompt in enumerate(prompts):
        batch = here.model.batch(prompt)
        if len(batch.tokens) != 1:
            raise ValueError(f"prompt {n} of the source holds {len(batch.tokens)} rows: list them one by one.")
        if same_length and batch.tokens.shape[1] != length:
            raise ValueError(
                f"prompt {n} of the source has {batch.tokens.shape[1]} tokens, the patched one {length}: "
                "what is put in at a position comes from that position. Give prompts of that length, or take "
                "Means(..., over='all')."
            )
        rows.append(batch.tokens)
    return rows
