"""Projections: which columns of which module are a head's query, key or value, and what writes back; found by value.

Layouts differ: separate or fused projections, interleaved by head or by group, `nn.Linear` or a transposed matrix.
None is listed. At the first position a rotary embedding turns nothing, so each number of `q`, `k` and `v` is there in
the output of some matrix product that read `attn_in`: the same bits, for every prompt. That gives the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenskit.models.finding.placed import is_plain
from lenskit.models.finding.probe import same
from lenskit.models.weighing.evidence import Seen
from lenskit.models.weighing.norms import Norm, norm_of

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_CHUNK = 1024


@dataclass(frozen=True)
class Linear:
    """A module that gives `x @ matrix + bias`, as its own call proved.

    `stored_out_first` tells how the module keeps its matrix: `nn.Linear` (out, in), transformers' Conv1D (in, out).
    """

    module: nn.Module
    stored_out_first: bool

    @classmethod
    def of(cls, call: Seen) -> Linear | None:
        """What the call shows the module to be; None where it is no plain matrix product (or its weight is packed)."""
        weight, bias = getattr(call.module, "weight", None), getattr(call.module, "bias", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2 or weight.dtype not in _FLOATS or not is_plain(weight):
            return None
        if call.input.dtype != weight.dtype or not call.input.shape[:-1].numel():
            return None
        x, y = call.input.flatten(0, -2), call.output.reshape(-1, call.output.shape[-1])
        for out_first in (isinstance(call.module, nn.Linear), not isinstance(call.module, nn.Linear)):
            matrix = weight.mT if out_first else weight
            if matrix.shape != (x.shape[-1], y.shape[-1]) or len(x) != len(y):
                continue
            made = x.to(weight.device) @ matrix
            if same(made if bias is None else made + bias, y):
                return cls(call.module, out_first)
        return None

    @property
    def matrix(self) -> Tensor:
        """(in, out), detached: a view of the model's own memory, not to be given away."""
        weight = self.module.weight.detach()  # pyright: ignore[reportCallIssue]
        return weight.mT if self.stored_out_first else weight

    @property
    def bias(self) -> Tensor | None:
        """(out,), detached: the model's own memory."""
        bias = self.module.bias
        return bias.detach() if isinstance(bias, Tensor) else None


@dataclass(frozen=True)
class Reader:
    """Some columns of a matrix product, as what reads the residual stream: `x @ weight + bias`, by head or neuron.

    Attributes:
        columns: (head, d_head) or (d_mlp,): where each of them is in the module's output.
        factor: by which the model itself multiplies the result (OPT scales its queries); it is inside weight and bias.
        note: what else must be known, such as a norm that follows; empty if nothing.
    """

    linear: Linear
    columns: Tensor
    factor: float = 1.0
    note: str = ""

    def weight(self) -> Tensor:
        """(head, d_model, d_head) or (d_model, d_mlp): a copy."""
        picked = self.linear.matrix.index_select(1, self.columns.flatten()).unflatten(1, self.columns.shape)
        picked = picked * self.factor if self.factor != 1.0 else picked
        return picked.movedim(1, 0).contiguous() if self.columns.dim() == 2 else picked

    def bias(self) -> Tensor:
        """(head, d_head) or (d_mlp,): a copy; zeros where the module has none."""
        bias = self.linear.bias
        if bias is None:
            return self.linear.matrix.new_zeros(self.columns.shape)
        return bias[self.columns] * self.factor


@dataclass(frozen=True)
class Writer:
    """A matrix product whose result is added to the residual stream: `x @ weight + bias`, from heads or neurons.

    `shape` is (head, d_head) or (d_mlp,). `factor` is a residual multiplier, and is inside weight and bias; but where a
    norm stands between (`post_norm`), what is added is `factor` times that norm of the result. `shift` is a bias that
    the block adds in the module's stead, and is inside the bias.
    """

    linear: Linear
    shape: tuple[int, ...]
    factor: float = 1.0
    post_norm: Norm | None = None
    shift: Tensor | None = None

    def weight(self) -> Tensor:
        """(head, d_head, d_model) or (d_mlp, d_model): a copy."""
        return (self.linear.matrix * self._inside).reshape(*self.shape, -1)

    def bias(self) -> Tensor:
        """(d_model,): a copy; zeros where the module has none."""
        own, shift = self.linear.bias, 0.0 if self.shift is None else self.shift.detach()
        bias = self.linear.matrix.new_zeros(self.linear.matrix.shape[1]) if own is None else own * self._inside
        return bias + shift

    @property
    def _inside(self) -> float:
        return self.factor if self.post_norm is None else 1.0

    @property
    def note(self) -> str:
        """What else must be known."""
        if self.post_norm is None:
            return ""
        return f"before the {type(self.post_norm.module).__name__} in front of the residual stream"


@dataclass(frozen=True)
class Product:
    """A matrix product that read the residual stream, and its output (prompt, column)."""

    linear: Linear
    output: Tensor


def products(calls: Iterable[Seen], reads: Tensor) -> list[Product]:
    """The matrix products among the calls that read exactly `reads` (prompt, d_model)."""
    found = []
    for call in calls:
        reads_it = call.input.numel() == reads.numel() and same(call.input.reshape(reads.shape), reads)
        if reads_it and (linear := Linear.of(call)) is not None:
            found.append(Product(linear, call.output.reshape(len(reads), -1)))
    return found


def find_reader(
    target: Tensor, sources: Sequence[Product], calls: Iterable[Seen], hint: Reader | None
) -> Reader | None:
    """The columns of one of the products that hold `target` (prompt, head, d_head) or (prompt, d_mlp).

    If there are none, they may be there up to one factor, or before a norm that follows the projection. The `hint` is
    the layer before: where first tokens all look alike (attention sinks), its columns are confirmed more surely than
    new ones are found.
    """
    shape, flat = target.shape[1:], target.flatten(1)
    found = _find(flat, sources, hint)
    note = ""
    if found is None:
        for call in calls:
            if call.input.numel() == call.output.numel() and call.output.numel() >= flat.numel():
                behind = _columns(flat, call.output.reshape(len(flat), -1))
                if behind is not None:
                    found = _find(call.input.reshape(len(flat), -1)[:, behind], sources, hint)
                    note = f"before the {type(call.module).__name__} that stands between"
                    if found is not None:
                        break
    if found is None:
        return None
    product, columns, factor = found
    return Reader(product.linear, columns.reshape(shape), factor, note)


def _find(target: Tensor, sources: Sequence[Product], hint: Reader | None) -> tuple[Product, Tensor, float] | None:
    if hint is not None and hint.columns.numel() == target.shape[1]:
        columns = hint.columns.flatten()
        for source in sources:
            if columns.max() < source.output.shape[1] and _confirms(source.output[:, columns], hint.factor, target):
                return source, columns, hint.factor
    for source in sources:
        columns = _columns(target, source.output, source.linear)
        if columns is not None:
            return source, columns, 1.0
    for source in sources:
        if (scaled := _scaled_columns(target, source.output)) is not None:
            return source, *scaled
    return None


def _confirms(columns: Tensor, factor: float, target: Tensor) -> bool:
    return torch.equal(columns, target) if factor == 1.0 else same(columns * factor, target)


def _columns(target: Tensor, source: Tensor, linear: Linear | None = None) -> Tensor | None:
    """Which column of `source` each column of `target` is, bit by bit; None unless all are found, without a doubt.

    Two columns may look the same if they are the same in `linear` too (heads that were pruned to zero).
    """
    where = dict[bytes, list[int]]()
    for at, bits in enumerate(_bits(source)):
        where.setdefault(bits, []).append(at)
    found = [where.get(bits) for bits in _bits(target)]
    if any(places is None for places in found):
        return None
    for places in found:
        assert places is not None
        if len(places) > 1 and not _interchangeable(places, linear):
            return None
    return torch.tensor([places[0] for places in found if places], device=source.device)


def _bits(x: Tensor) -> list[bytes]:
    # Adding zero makes minus zero plus zero: a rotary embedding may have turned the one into the other.
    table = (x + 0.0).mT.contiguous().view(torch.uint8).cpu().numpy()
    return [row.tobytes() for row in table]


def _interchangeable(places: list[int], linear: Linear | None) -> bool:
    if linear is None:
        return False
    columns = linear.matrix[:, places]
    bias = None if linear.bias is None else linear.bias[places]
    return bool((columns == columns[:, :1]).all()) and (bias is None or bool((bias == bias[0]).all()))


def _scaled_columns(target: Tensor, source: Tensor) -> tuple[Tensor, float] | None:
    """The columns that `target` is made of by one factor, and the factor; None unless each is the only one."""
    if source.shape[1] < 2 or len(target) < 4:
        return None
    s, t = source.double(), target.double()
    directions = s / s.norm(dim=0).clamp_min(1e-30)
    alike = [(part.mT @ directions).abs().topk(2, dim=1).indices for part in t.split(_CHUNK, dim=1)]
    best, second = torch.cat(alike).unbind(1)
    factor = float((t * s[:, best]).sum() / s[:, best].square().sum().clamp_min(1e-30))
    if not same((s[:, best] * factor).to(target.dtype), target):
        return None
    far = (t - factor * s[:, second]).norm(dim=0) > 1e-3 * t.norm(dim=0)
    return (best, factor) if bool(far.all()) else None


def find_writer(
    call: Seen, shape: tuple[int, ...], written: Tensor, shift: Tensor | None, calls: Iterable[Seen]
) -> Writer | str:
    """What `call` writes: `written` (prompt, d_model) is its result, times a factor or after a norm; or why not.

    `shift` is what the block is known to add besides.
    """
    linear = Linear.of(call)
    if linear is None:
        return f"its {type(call.module).__name__} is no plain matrix product that can be read (is it quantised?)"
    if linear.matrix.shape[0] != torch.Size(shape).numel():
        return "its output projection reads more than the site holds"
    written = written if shift is None else written - shift.detach()
    result = call.output.reshape(written.shape) if call.output.numel() == written.numel() else None
    if result is not None and (factor := _factor(result, written)) is not None:
        return Writer(linear, shape, factor, None, shift)
    for after in calls:
        if result is not None and after.input.shape == call.output.shape and same(after.input, call.output):
            normed = after.output.reshape(written.shape)
            factor, norm = _factor(normed, written), norm_of(after.module, after.input, after.output)
            if factor is not None and norm is not None:
                return Writer(linear, shape, factor, norm, shift)
    return "something other than a factor or a norm stands between it and the residual stream"


def _factor(result: Tensor, written: Tensor) -> float | None:
    if same(result, written):
        return 1.0
    r, w = result.double(), written.double()
    factor = round(float((r * w).sum() / r.square().sum().clamp_min(1e-30)), 6)
    return factor if factor and same((r * factor).to(written.dtype), written) else None
