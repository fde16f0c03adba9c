"""Held norms: the norms of a model as maps that are affine, because what they divide by does not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lenskit.models.edits import Splice
from lenskit.models.weighing.norms import Norm, norm_of

if TYPE_CHECKING:
    from lenskit.models.model import Model


def norms_in(model: Model) -> dict[str, Norm]:
    """Every norm of the model by its module's path, each proved on the anatomy's small forward.

    A module that is called a norm and is none that can be taken apart is left out: what depends on it does not add up
    then, and whoever sums finds out.
    """
    found = dict[str, Norm]()
    for path, module in model.anatomy.model.named_modules():
        calls = model.anatomy.probe.by_module.get(module, ())
        if not calls or not _is_called_norm(path, module) or calls[0].input.shape != calls[0].output.shape:
            continue
        norm = norm_of(module, calls[0].input, calls[0].output)
        if norm is not None:
            found[path] = norm
    return found


def _is_called_norm(path: str, module: nn.Module) -> bool:
    name = path.rpartition(".")[2].lower()
    return not list(module.children()) and ("norm" in type(module).__name__.lower() or "norm" in name)


@dataclass
class Scales:
    """What each norm divides by on a prompt: noted down in a first forward, and used again in every later one."""

    norms: Mapping[str, Norm]
    held: dict[str, list[Tensor]] = field(default_factory=dict)

    def noting(self) -> list[Splice]:
        """Edits for the first forward: every norm divides by what it would, through which no gradient flows."""
        self.held = {path: [] for path in self.norms}
        return [Splice(f"{path}.input", path, _Noting(norm, self.held[path])) for path, norm in self.norms.items()]

    def again(self) -> list[Splice]:
        """Edits for another forward, in which every norm divides by what it did in the first."""
        return [Splice(f"{path}.input", path, _Again(norm, self.held[path])) for path, norm in self.norms.items()]


@dataclass
class _Noting:
    norm: Norm
    held: list[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        self.held.append(self.norm.scale(x).detach())
        return self.norm.held(x, self.held[-1]).to(x.dtype)


@dataclass
class _Again:
    norm: Norm
    held: list[Tensor]
    calls: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        scale = self.held[self.calls]  # a norm that is called twice has two
        self.calls += 1
        return self.norm.held(x, scale).to(x.dtype)
