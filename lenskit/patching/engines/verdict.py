"""Verdict: whether packed rows are right in a model, measured against plain forwards.

They are wrong where anything but attention mixes positions, where attention is out of reach, or where a block is called
with something stranger than what can be chosen by position. No list says which models these are: cells of random
values, at early, middle and late layers, are computed both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lenskit.models.edits import Set
from lenskit.models.finding.probe import noise
from lenskit.models.model import Model
from lenskit.models.sites import LAYERED, Site, SiteUnavailable
from lenskit.models.steps import in_steps
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engines.base import Base, growing, has_stream, has_tail, run_base
from lenskit.patching.engines.batches import run_batch
from lenskit.patching.engines.packed import Packed
from lenskit.patching.engines.row_attention import OutOfReach
from lenskit.patching.engines.writes import OF_PATTERNS

Key = tuple[str, int, torch.dtype, torch.device, int]
"""What a verdict holds for: an attention implementation, a prompt's length in bits, dtype, device, and the modules."""

# What a model that cannot take rows out of order may raise when it is given them: this is the finding.
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError)


@dataclass
class Verdict:
    """What was found.

    Attributes:
        axes: for each layer, the axes of the positions in the arguments and keywords that its block is called with.
        sites: by site why packed rows are not right, None where they are.
        rows: how many rows there were at most when it was measured.
        pace: the seconds that one row took in one layer, at best.
    """

    axes: list[Any] = field(default_factory=list)
    sites: dict[str, str | None] = field(default_factory=dict)
    rows: int = 0
    pace: float | None = None

    def timed(self, packed: Packed) -> None:
        """Note down how fast the rows went."""
        if packed.passed:
            pace = packed.seconds / packed.passed
            self.pace = pace if self.pace is None else min(self.pace, pace)


_verdicts: WeakKeyDictionary[nn.Module, dict[Key, Verdict]] = WeakKeyDictionary()


def verdict_of(model: Model, base: Base) -> Verdict:
    """What is known so far about a model and prompts like this one."""
    config: Any = model.anatomy.text_config
    modules = hash(tuple((type(module), module.training) for module in model.anatomy.blocks.modules()))
    key = (str(config._attn_implementation), base.length.bit_length(), model.dtype, model.device, modules)
    return _verdicts.setdefault(model.anatomy.model, {}).setdefault(key, Verdict())


def why_never(model: Model) -> str | None:
    """Why rows cannot be packed whatever is measured, as it can be said before anything runs; None if they may be."""
    if model.edits:
        return "the model has edits that stay, which are made for whole prompts"
    if not has_stream(model):
        return "the inputs and outputs of its blocks are not the residual stream"
    if not has_tail(model):
        return "the way from its last residual to the logits could not be followed"
    if not model.anatomy.causal:
        return "later tokens change what comes before them"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.anatomy.blocks.modules()):
        return "somebody's own hooks stand in its blocks, and they would see rows out of order"
    return None


def measure(model: Model, base: Base, site: str, room: int) -> Generator[None, None, None]:
    """Find out whether packed rows are right for changes at a site, in steps; `verdict_of` knows it afterwards."""
    verdict = verdict_of(model, base)
    if site not in verdict.sites:
        verdict.sites[site] = yield from _why_not(model, base, verdict, site, room)


def _why_not(model: Model, base: Base, verdict: Verdict, site: str, room: int) -> Generator[None, None, str | None]:
    if len(base.layers) != model.n_layers:
        return "not every block is called in a forward"
    if not any(layer.attention for layer in base.layers):
        return "none of its blocks calls an attention function of transformers': what mixes positions is out of reach"
    if not verdict.axes:
        other = yield from in_steps(lambda: run_base(model, _of_another_length(model, base), True), _blocks(model))
        verdict.axes = [
            (growing(a.args, b.args), growing(a.kwargs, b.kwargs))
            for a, b in zip(other.layers, base.layers, strict=True)
        ]
    trials = yield from _trials(model, base, site)
    everything, last = range(base.length), [base.length - 1]
    try:
        whole = yield from _packed(model, base, verdict, trials, everything, room)
        ends = yield from _packed(model, base, verdict, trials, last, room)
    except _REFUSALS as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return said if isinstance(error, OutOfReach) else f"its blocks do not take rows out of order ({said})"
    plain = base.resid[-1]
    for number, trial in enumerate(trials[::_OF_EACH]):
        truth = yield from in_steps(_plainly(model, base, trial), _blocks(model))
        if not _stands_out(truth[trial.pos :], plain[trial.pos :]):
            return f"a change of {site} in layer {trial.layer} has too little effect for it to be verified"
        for got, of in ((whole[number * _OF_EACH], everything), (ends[number * _OF_EACH], last)):
            if why := _differs(got, truth[list(of)], plain[list(of)]):
                return f"{why}, as measured at {site}.{trial.layer}"
    return None


def audit(
    model: Model, base: Base, cells: Sequence[Cell], read: Sequence[int], rows: int, ends: Tensor
) -> Generator[None, None, str | None]:
    """Compare two of many cells with plain forwards, the first time that so many rows went together.

    ends: what packed rows gave, (cell, read, d_model). Gives the reason why these are not right, or None. What a model
    does to hundreds of rows (to let an expert take no more than so many, say) it may not have done to a few.
    """
    verdict = verdict_of(model, base)
    if rows <= 2 * verdict.rows:
        return None
    plain = base.resid[-1][list(read)]
    effects = (ends - plain).abs().amax((1, 2))
    for number in {int(effects.argmax()), max(range(len(cells)), key=lambda n: (cells[n].layer, n))}:
        truth = yield from run_batch(model, base, [cells[number]], read, from_start=True)
        if why := _differs(ends[number], truth.values[0], plain):
            return f"{why}, as measured among {rows} rows"
    verdict.rows = rows
    return None


def _stands_out(truth: Tensor, plain: Tensor) -> bool:
    """Whether a change has so much effect that an error of it would be seen."""
    effect = (truth - plain).double().abs().amax(-1)
    return bool((effect >= 10 * noise(truth) * truth.double().abs().amax(-1)).any())


def _differs(got: Tensor, truth: Tensor, plain: Tensor) -> str | None:
    """Why residuals (pos, d_model) are not the true ones; None where they are, up to the rounding.

    Each position is measured by itself: at an attention sink the residual is thousands of times larger than elsewhere.
    """
    effect = (truth - plain).double().abs().amax(-1)
    allowed = noise(truth) * truth.double().abs().amax(-1) + (5e-2 if truth.dtype.itemsize < 4 else 1e-4) * effect
    error = (got - truth).double().abs().amax(-1)
    if bool((error <= allowed).all()):
        return None
    return (
        "something other than attention mixes its positions, or attention reads more than keys and values: rows by "
        f"themselves differ from a whole forward by {float(error.max()):.1e}, where its effect is "
        f"{float(effect.max()):.1e}"
    )


# Each cell that is compared travels with others that must not matter to it.
_OF_EACH = 3


def _trials(model: Model, base: Base, site: str) -> Generator[None, None, list[Cell]]:
    """Cells of random values at the first, the middle and the last layer that has the site, and early positions."""
    there = model.anatomy.layers_of(site)
    layers = sorted({there[0], there[len(there) // 2], there[-1]})
    keep = [(site, layer) for layer in layers]
    blocks = _blocks(model)
    run = yield from in_steps(lambda: model.run(base.tokens, keep=keep), blocks)
    random = torch.Generator().manual_seed(base.length)
    cells = list[Cell]()
    for number, layer in enumerate(layers):
        value = run[site, layer][0]
        for copy in range(_OF_EACH):
            pos = (base.length * (number + 1) // 4 + copy * base.length // 5) % base.length
            part = value[:, pos : pos + 1] if site in OF_PATTERNS else value[pos : pos + 1]
            cells.append(Cell((Change(site, layer, (pos,), _other(site, part, random)),)))
    return cells


def _other(site: str, part: Tensor, random: torch.Generator) -> Tensor:
    """Another value for a part of a site, as different as the site's own values are large."""
    drawn = torch.randn(part.shape, generator=random).to(part.device, part.dtype)
    if site == "pattern":
        return part * (1 + drawn).abs()
    size = part[part.isfinite()].double().square().mean().sqrt().to(part.dtype)
    # In a coarse dtype the effect must stand out from the rounding.
    return part + drawn * size * (1 if part.dtype in (torch.float32, torch.float64) else 10)


def _packed(
    model: Model, base: Base, verdict: Verdict, trials: Sequence[Cell], read: Sequence[int], room: int
) -> Generator[None, None, Tensor]:
    order = sorted(range(len(trials)), key=lambda number: trials[number].layer)
    packed = Packed(model.anatomy, base, verdict.axes, [trials[number] for number in order], read, room)
    ends = yield from packed.steps()
    verdict.rows = max(verdict.rows, packed.most)
    verdict.timed(packed)
    return ends[torch.tensor(order).argsort().to(ends.device)]


def _plainly(model: Model, base: Base, cell: Cell) -> Callable[[], Tensor]:
    """The last residual (pos, d_model) of one plain forward with a cell's change."""
    (change,) = cell.changes
    site = ("resid_post", model.n_layers - 1)
    edit = Set(change.site, change.value[None], layers=change.layer, pos=list(change.pos))
    return lambda: model.run(base.tokens, edits=edit, keep=site, stop_at=site)[site][0]


def _of_another_length(model: Model, base: Base) -> Tensor:
    context = model.anatomy.context
    if context is not None and base.length + 1 > context:
        return base.tokens[:, :-1]
    return torch.cat([base.tokens, base.tokens[:, -1:]], 1)


def _blocks(model: Model) -> Any:
    return model.anatomy.blocks


def check_sites(model: Model, cells: Sequence[Cell], length: int) -> None:
    """Raise `SiteUnavailable` or `IndexError` for a change at a place that does not exist."""
    for layer, site in {(change.layer, change.site) for cell in cells for change in cell.changes}:
        if site not in LAYERED:
            raise SiteUnavailable(f"cells change the sites of layers, and {site!r} is none of {', '.join(LAYERED)}.")
        model.anatomy.spot(Site(site, layer))
    for cell in cells:
        if not cell.changes:
            raise ValueError("a cell without a change is no cell: leave it out.")
        for change in cell.changes:
            if not change.pos or not 0 <= change.pos[0] <= change.pos[-1] < length:
                raise IndexError(f"a change of {change.where} at pos={change.pos}: the prompt has {length} positions.")
