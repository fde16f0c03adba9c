"""Evidence: what the modules of every block and its sites held in one forward, to find the weights by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lenskit.models.running.doors import in_order
from lenskit.models.sites import Site
from lenskit.models.taps import Point, Taker, first_tensor, tapped, watched

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy

SITES = (
    "resid_pre",
    "attn_in",
    "q",
    "k",
    "v",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_pre",
    "mlp_post",
    "mlp_out",
)


class Seen(NamedTuple):
    """One call of a module: the first tensor that went in, and the first that came out."""

    module: nn.Module
    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class Evidence:
    """The calls of the modules in each block, in the order in which they ended, and the sites by (name, layer).

    `shifts` are the vectors that blocks add to a site besides (a bias that attention hands over), the model's own.
    """

    sites: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    shifts: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    calls: list[list[Seen]] = field(default_factory=list)

    def flat(self, name: str, layer: int) -> Tensor | None:
        """A site of a layer as (prompt, all the rest), or None where it does not exist."""
        value = self.sites.get((name, layer))
        return None if value is None else value.flatten(1)

    @classmethod
    def take(cls, anatomy: Anatomy, tokens: Tensor, *, watch: bool) -> Evidence:
        """Run the model on `tokens` (batch, pos); with `watch`, keep every call of the blocks' modules too."""
        found = cls(calls=[[] for _ in anatomy.blocks])
        points = dict[Point, list[Taker]]()
        for name in SITES:
            for layer in anatomy.layers_of(name):
                spot = anatomy.spot(Site(name, layer))
                points.setdefault(spot.point, []).append(spot.taking(found._keep(name, layer), len(tokens)))
                if spot.shift is not None:
                    found.shifts[name, layer] = spot.shift
        modules = [module for block in anatomy.blocks for module in block.modules()] if watch else []
        begin, end = found._watchers(anatomy.blocks)
        takers = {point: in_order(takes) for point, takes in points.items()}
        with tapped(takers), watched(modules, begin, end), anatomy.eagerly(), torch.no_grad():
            anatomy.model(input_ids=tokens, use_cache=False)
        return found

    def _keep(self, name: str, layer: int) -> Taker:
        def take(tensor: Tensor) -> None:
            self.sites[name, layer] = tensor.clone()

        return take

    def _watchers(self, blocks: Iterable[nn.Module]) -> Any:
        home = {module: layer for layer, block in enumerate(blocks) for module in block.modules()}
        given = list[Tensor | None]()

        def begin(module: nn.Module, args: list[Any]) -> None:
            tensor = first_tensor(args)
            given.append(None if tensor is None else tensor.clone())

        def end(module: nn.Module, output: object) -> None:
            went_in, came_out = given.pop(), first_tensor(output)
            if went_in is not None and came_out is not None:
                self.calls[home[module]].append(Seen(module, went_in, came_out.clone()))

        return begin, end
