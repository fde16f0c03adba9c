"""Embeddings: the matrices at both ends of the model, and the norm before the last, as its own numbers prove them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from lenskit.models.anatomy import Anatomy
from lenskit.models.finding.placed import is_plain
from lenskit.models.finding.probe import same
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.evidence import Seen
from lenskit.models.weighing.norms import Norm, norm_of
from lenskit.models.weighing.parts import Parts
from lenskit.models.weighing.projections import Linear


@dataclass(frozen=True)
class Table:
    """The rows of an embedding, from `first` on, times what the module itself multiplies them by (Gemma)."""

    module: nn.Module
    factor: float = 1.0
    first: int = 0

    def weight(self) -> Tensor:
        """(row, d_model), detached: the model's own memory where the factor is 1."""
        rows = _table_of(self.module)[self.first :]  # pyright: ignore[reportOptionalSubscript] -- it was there
        return rows if self.factor == 1.0 else rows * self.factor


@dataclass(frozen=True)
class Head:
    """The output embedding: what it reads is multiplied by `before`, its scores by `scale` (Granite, Cohere)."""

    linear: Linear
    before: float = 1.0
    scale: float = 1.0

    def weight(self) -> Tensor:
        """(d_model, vocab), detached: the model's own memory where the factors are 1."""
        factor = self.before * self.scale
        return self.linear.matrix if factor == 1.0 else self.linear.matrix * factor

    def bias(self) -> Tensor:
        """(vocab,): a copy; zeros where there is none."""
        bias = self.linear.bias
        return self.linear.matrix.new_zeros(self.linear.matrix.shape[1]) if bias is None else bias * self.scale


class Found:
    """What the views of one model are read from, found once and shared by its folded and centred views."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy, self.parts = anatomy, Parts(anatomy)

    @cached_property
    def embedding(self) -> Table:
        """The token embedding."""
        return find_embedding(self.anatomy)

    @cached_property
    def positions(self) -> Table:
        """The position embedding."""
        return find_positions(self.anatomy)

    @cached_property
    def head(self) -> Head:
        """The unembedding."""
        return find_head(self.anatomy)

    @cached_property
    def final_norm(self) -> Norm:
        """The norm before it."""
        return find_final_norm(self.anatomy)

    def notes(self) -> dict[str, str]:
        """What the model multiplies the matrices at its ends by, and what stands between, in words."""
        factors = dict[str, float]()
        with suppress(SiteUnavailable):
            factors["W_E"] = self.embedding.factor
        with suppress(SiteUnavailable):
            factors["W_U"] = self.head.before * self.head.scale
        said = {name: f"times {factor:.6g}, as the model does" for name, factor in factors.items() if factor != 1.0}
        if "W_U" in factors and len(self.anatomy.tail.modules) > 1:
            between = ", ".join(type(module).__name__ for module in self.anatomy.tail.modules[1:])
            said["W_U"] = f"reads what {between} makes of 'final_norm'" + (f"; {said['W_U']}" if "W_U" in said else "")
        return said


def find_embedding(anatomy: Anatomy) -> Table:
    """The token embedding: `W_E[tokens]` is the site `embed`. Raises `SiteUnavailable` where it is no table."""
    call = anatomy.probe.by_module[anatomy.embedding][0]
    table = _table_of(anatomy.embedding)
    if table is not None:
        rows, out = table[anatomy.probe.tokens[0].to(table.device)].double(), call.output.reshape(5, -1).double()
        if rows.shape == out.shape:
            factor = 1.0 if same(rows, out) else float((rows * out).sum() / rows.square().sum())
            if same((rows * factor).to(call.output.dtype), call.output.reshape(5, -1)):
                return Table(anatomy.embedding, factor)
    raise SiteUnavailable(
        f"W_E does not exist in {anatomy.family}: its embedding is not a row of a matrix. Use the site 'embed'."
    )


def find_positions(anatomy: Anatomy) -> Table:
    """The position embedding: `W_pos[:n]` is the site `pos_embed`. Raises `SiteUnavailable` where there is no table."""
    module = anatomy.spot(Site("pos_embed")).point.module
    out, table = anatomy.probe.by_module[module][0].output, _table_of(module)
    out = out.reshape(-1, out.shape[-1])
    if table is not None and table.shape[1] == out.shape[1]:
        for first in range(len(table) - len(out) + 1):
            if same(table[first : first + len(out)].to(out.dtype), out):
                return Table(module, 1.0, first)
    raise SiteUnavailable(
        f"W_pos does not exist in {anatomy.family}: its position embedding is computed, not learned. "
        "Use the site 'pos_embed'."
    )


def find_head(anatomy: Anatomy) -> Head:
    """The unembedding. Raises `SiteUnavailable` where the way to the logits, or its matrix, cannot be read."""
    tail = anatomy.tail
    call = anatomy.probe.by_module[tail.head][-1]
    linear = Linear.of(Seen(call.module, call.input, call.output))
    if linear is None:
        raise SiteUnavailable(
            f"W_U does not exist in {anatomy.family}: its head is no plain matrix product that can be read "
            "(is it quantised, or offloaded?). Use model.unembed(h)."
        )
    return Head(linear, tail.before_head, tail.scale)


def find_final_norm(anatomy: Anatomy) -> Norm:
    """The norm in front of the unembedding. Raises `SiteUnavailable` where something else stands there."""
    modules = anatomy.tail.modules
    if not modules:
        return Norm()
    call = anatomy.probe.by_module[modules[0]][-1]
    norm = norm_of(call.module, call.input, call.output) if len(modules) == 1 else None
    if norm is None:
        between = ", ".join(type(module).__name__ for module in modules)
        raise SiteUnavailable(
            f"the final norm of {anatomy.family} cannot be taken apart: before the head stands {between}, which is not "
            "one LayerNorm or RMSNorm. Use model.unembed(h)."
        )
    return norm


def _table_of(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2 and is_plain(weight):
        return weight.detach()
    return None
