"""Rows: the matrices of one passage, from one forward of many copies of it and a backward for as many rows at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lenskit.lenses.jacobian_fit.recipe import Place, Recipe
from lenskit.models.batch import Batch
from lenskit.models.finding.spots import Spot
from lenskit.models.identity import d_model_of
from lenskit.models.memory import free_bytes
from lenskit.models.model import Model
from lenskit.models.prefix import Prefix
from lenskit.models.running.plan import Stopped
from lenskit.models.sites import Site
from lenskit.models.taps import Taker, tapped

MOST_AT_ONCE, MOST_ON_A_CPU = 64, 16  # more copies make no backward quicker, and take memory
_SHARE = 4  # of the free memory, a quarter

PerPlace = dict[Place, Tensor]
"""At each place (d_model out, d_in)."""


class _Graph(NamedTuple):
    """A forward with gradients: the target residual, and the model's tensor at each place, of every copy."""

    target: Tensor
    seen: list[Tensor]


class Rows:
    """The derivatives of the target residual by each place, of one passage after another.

    A backward plants a direction at all target positions of a copy: each output dimension in turn, or with probes
    random signs of all of them. Since no earlier position depends on a later one, what arrives at a source position is
    the sum over the targets from there on; and it arrives at the places of all layers.
    Source: Gurnee et al. (2026), and the fit of their reference package.

    Args:
        model: the model; nothing of it is changed.
        recipe: what to take derivatives of and by.
        at_once: rows from one backward, on as many copies; None for what the free memory holds.

    Raises `ValueError` for a model in which a gradient is cut off, later tokens change earlier ones, or edits stay.
    """

    def __init__(self, model: Model, recipe: Recipe, at_once: int | None = None) -> None:
        if at_once is not None and at_once < 1:
            raise ValueError(f"at_once={at_once}: a backward gives at least one row.")
        if not model.anatomy.causal:
            raise ValueError(f"in {model.name} later tokens change earlier ones: its derivatives are no Jacobian lens.")
        if model.edits:
            raise ValueError(
                f"{model.name} has edits that stay, and a lens belongs to the model itself: take them off."
            )
        model.anatomy.check_gradients()
        self.model, self.recipe = model, recipe
        self._at_once = at_once
        # What is skipped is read once, as keys and values: no derivative by it is wanted, and none goes through it.
        self._skipped = recipe.skip_first if Prefix(model).reusable else 0
        self.spots = [model.anatomy.spots(place.source, (place.layer,))[0] for place in recipe.places]

    @cached_property
    def shapes(self) -> dict[Place, tuple[int, int]]:
        """(d_model out, d_in) at each place."""
        d_model = d_model_of(self.model)
        widths = {}
        for place, spot in zip(self.recipe.places, self.spots, strict=True):
            seen = self.model.anatomy.probe.by_module[spot.point.module][0]
            widths[place] = (seen.input if spot.point.side == "input" else seen.output).shape[-1]
        return {place: (d_model, width) for place, width in widths.items()}

    def of(self, ids: Tensor, number: int) -> PerPlace:
        """The matrices of a passage (pos,) of token ids; `number` tells its probes from those of another."""
        if self.recipe.probes is None:
            return self.along(ids, torch.eye(d_model_of(self.model)))
        signs = random_signs(self.recipe.probes, d_model_of(self.model), self.recipe.seed * 1_000_003 + number)
        sums = self.along(ids, signs)
        return {place: signs.to(rows).T @ rows / len(signs) for place, rows in sums.items()}

    def along(self, ids: Tensor, directions: Tensor) -> PerPlace:
        """`directions @ J`, (n, d_in) at each place, of a passage (pos,) of token ids, from n rows of backwards.

        directions: (n, d_model) of the target residual, of which it takes the derivatives; the identity's rows give
            the matrix itself.
        """
        copies = self.at_once(ids)
        with _quick_attention(self.model.device):
            return self._along(ids, directions, copies)

    def _along(self, ids: Tensor, directions: Tensor, copies: int) -> PerPlace:
        graph = self._forward(ids, copies)
        directions, count = directions.to(graph.target), len(directions)
        found = list[Tensor]()
        for begin in range(0, count, copies):
            rows = slice(begin, min(begin + copies, count))
            planted = self._planted(graph.target, directions[rows])
            # Only these paths are followed: no gradient of a parameter is computed, and the rest of the graph is kept.
            grads = torch.autograd.grad(graph.target, graph.seen, planted, retain_graph=rows.stop < count)
            means = [
                self._mean(g, spot, copies)[: rows.stop - begin] for g, spot in zip(grads, self.spots, strict=True)
            ]
            if not found:
                found = [mean.new_zeros(count, mean.shape[1]) for mean in means]
            for matrix, mean in zip(found, means, strict=True):
                matrix[rows] = mean
        return dict(zip(self.recipe.places, found, strict=True))

    def at_once(self, ids: Tensor) -> int:
        """How many rows one backward gives: as asked, or what fits, in backwards of about the same size."""
        if self._at_once is None:
            device = self.model.device
            free, most = free_bytes(device), MOST_ON_A_CPU if device.type == "cpu" else MOST_AT_ONCE
            fits = MOST_ON_A_CPU if free is None else self._that_fit(ids, free)
            count = self.recipe.probes or d_model_of(self.model)
            backwards = -(-count // min(fits, most))
            self._at_once = -(-count // backwards)
        return self._at_once

    def goes_on(self, at_once: int) -> None:
        """Take as many rows at once as the fit that is gone on with, unless something else was asked for."""
        self._at_once = at_once if self._at_once is None else self._at_once

    def _that_fit(self, ids: Tensor, free: int) -> int:
        """How many copies a share of the free memory holds, as one of them shows. Raises `MemoryError` for none."""
        weights = {weight.untyped_storage().data_ptr() for weight in self.model.anatomy.model.parameters()}
        sizes = dict[int, int]()

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            graph = self._forward(ids, 1)
        each = sum(sizes.values()) + sum(2 * seen.nbytes for seen in graph.seen)
        if each > free:
            raise MemoryError(
                f"one copy of a passage of {len(ids)} tokens takes {each / 1e9:.1f} GB with its gradients, and "
                f"{free / 1e9:.1f} GB are free: take shorter passages (chunk=), or later layers only (layers=)."
            )
        return max(1, free // _SHARE // each)

    # One forward, one backward

    def _forward(self, ids: Tensor, copies: int) -> _Graph:
        """Run so many copies up to the target. The last token is left out: it is no target, and nothing sees it."""
        anatomy = self.model.anatomy
        ids = ids[:-1].to(self.model.device)
        batch = Batch(ids[self._skipped :].expand(copies, -1).contiguous(), None)
        plan, seen, ends = self.model.plan(batch), dict[int, Tensor](), list[Tensor]()
        for number, spot in enumerate(self.spots):
            plan.add(spot.point, _seeing(seen, number, spot))
        last = Site("resid_post", self.recipe.target_layer)
        plan.add(anatomy.spot(last).point, ends.append)
        plan.stop(last)
        before = self._before(ids[: self._skipped], copies)
        with torch.enable_grad(), tapped(plan.takers, anatomy.doors), suppress(Stopped):
            self.model.call(batch, **before)
        plan.finished()
        return _Graph(ends[0], [seen[number] for number in range(len(self.spots))])

    def _before(self, ids: Tensor, copies: int) -> dict[str, Any]:
        """What the model is told of the skipped tokens: their keys and values, the same for every copy."""
        if not self._skipped:
            return {}
        from transformers import DynamicCache

        config: Any = self.model.anatomy.model.config
        cache = DynamicCache(config=config)
        read = self.model.forward(Batch(ids[None], None), past_key_values=DynamicCache(config=config), use_cache=True)
        for number, layer in enumerate(read.past_key_values.layers):
            if layer.keys is not None:
                keys, values = (each.expand(copies, -1, -1, -1) for each in (layer.keys, layer.values))
                cache.update(keys, values, number)
        return {"past_key_values": cache, "use_cache": True}

    @property
    def _positions(self) -> slice:
        """The positions that are sources and targets, among those that run."""
        return slice(self.recipe.skip_first - self._skipped, None)

    def _planted(self, target: Tensor, directions: Tensor) -> Tensor:
        """What is planted at the target (copy, pos, d_model): a direction at every position of a copy of its own."""
        planted = torch.zeros_like(target)
        planted[: len(directions), self._positions] = directions[:, None]
        return planted

    def _mean(self, grad: Tensor, spot: Spot, copies: int) -> Tensor:
        """(copy, d_in) the mean over the source positions, of the gradient at the model's own tensor."""
        plain = replace(spot, factor=1.0, shift=None, heads=None)
        at_site = plain.read(grad, copies)[:, self._positions]
        kind = torch.float64 if grad.dtype == torch.float64 else torch.float32
        return at_site.sum(1, dtype=kind).div_(at_site.shape[1] * spot.factor)


def random_signs(count: int, d_model: int, seed: int) -> Tensor:
    """(count, d_model) of 1 and -1, for which (s A) . (s B) is on average the sum of A * B over all entries.

    Source: Hutchinson's estimator.
    """
    return torch.randint(2, (count, d_model), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _seeing(seen: dict[int, Tensor], number: int, spot: Spot) -> Taker:
    """What notes the model's tensor at a place; the model goes on with a copy, so that nothing changes what was seen.

    The graph begins at the place that comes first, whether weights are frozen or not.
    """

    def take(tensor: Tensor) -> Tensor:
        goes_on = bool(seen) and tensor.requires_grad
        raw = tensor.clone() if goes_on else tensor.detach().clone().requires_grad_()
        seen[number] = raw
        return tensor.copy_(raw) if spot.shared else raw.clone()

    return take


def _quick_attention(device: torch.device) -> AbstractContextManager[object]:
    """Where a CPU may make products of float32 in bfloat16, the written-out attention has the quicker backward."""
    quick = device.type == "cpu" and torch.get_float32_matmul_precision() != "highest"
    return sdpa_kernel(SDPBackend.MATH) if quick else nullcontext()
