"""Edits: interventions as small values that can be composed, listed, saved and taken back.

An edit says which site, which part of it, and what becomes of that part. It holds no model: the same edit can be used
in `model.run`, `model.trace`, `model.generate` and `model.edit`. Edits at one site act in the order in which they are
given, each on what the one before has made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from lenskit.models.running.which import Which, as_which, check_steps
from lenskit.models.sites import Site


class NothingEdited(ValueError):
    """Raised for an edit that matches no site, layer, head, row, position or step: it would silently do nothing."""


@dataclass(frozen=True, eq=False)
class Edit:
    """What every edit has: a site, and which part of it.

    Attributes:
        site: a site's name, with or without its layer and head, or the path of a module.
        layers: which layers; None for every layer in which the site exists.
        heads: which heads, for sites that have them.
        pos: which positions, counted from each row's first token, or from its last with negative numbers; a slice, or
            a list. None for the whole text; padding is never edited. For scores and pattern: the queries.
        rows: which prompts of the batch.
        steps: which steps of a generation: 0 is the prompt, n the n-th generated token. Counted upwards from 0.

    Raises `TypeError` for a selector that is no index, list of indices, range or slice.
    """

    site: str
    elsewhere: ClassVar[bool] = False
    """Whether it is listed as an edit and acts by other means than at its site."""

    _: KW_ONLY
    layers: Which = None
    heads: Which = None
    pos: Which = None
    rows: Which = None
    steps: Which = None

    def __post_init__(self) -> None:
        site = Site.parse(self.site)
        for name, given in (("layers", site.layer), ("heads", site.head)):
            if given is not None:
                if getattr(self, name) is not None:
                    raise TypeError(f"{self.site!r} says which {name[:-1]}, and so does {name}=: say it once.")
                object.__setattr__(self, name, given)
        object.__setattr__(self, "site", site.name)
        for name in SELECTORS:
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, as_which(name, given))
        check_steps(self.steps)

    @property
    def writes(self) -> str:
        """The site that it changes."""
        return self.site

    @property
    def reads(self) -> str | None:
        """Another site that it has to see first, or None."""
        return None

    @property
    def recalls(self) -> bool:
        """Whether it has to see what its site holds in the same text without any edit: `At.clean`."""
        return False

    def new(self, part: Tensor, at: At) -> Tensor:
        """What becomes of the chosen part, (row, pos, ...), or (place, ...) where rows differ in length."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.site))

    def __repr__(self) -> str:
        parts = [repr(self.site)]
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != "site" and value is not None and not (each.default is value or equal(each.default, value)):
                parts.append(f"{each.name}={shown(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


SELECTORS = ("layers", "heads", "pos", "rows", "steps")


class At(NamedTuple):
    """Where an edit acts, and how the part is laid out: whether rows and positions have an axis each, and which.

    `clean` is the same part without any edit, for an edit that recalls it.
    """

    site: Site
    gridded: bool
    pos_axis: int
    edit: Edit
    clean: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Set(Edit):
    """Put a value in the place of the activation: a number, or a tensor that fits the chosen part (row, pos, ...).

    >>> model.run(prompt, edits=[lk.Set("z", 0.0, layers=9, heads=6)])  # doctest: +SKIP
    """

    value: Tensor | float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", _number_or_tensor(self.value))

    def new(self, part: Tensor, at: At) -> Tensor:
        return _fitting(self.value, part, at)


@dataclass(frozen=True, eq=False, repr=False)
class Add(Edit):
    """Add a vector, `scale` times: steering.

    >>> model.run(prompt, edits=[lk.Add("resid_post", v, scale=4, layers=6)])  # doctest: +SKIP
    """

    value: Tensor | float
    _: KW_ONLY
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", _number_or_tensor(self.value))

    def new(self, part: Tensor, at: At) -> Tensor:
        return part + _fitting(self.value, part, at) * self.scale


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Edit):
    """Multiply the activation by a number, or by a tensor that fits the chosen part."""

    by: Tensor | float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "by", _number_or_tensor(self.by))

    def new(self, part: Tensor, at: At) -> Tensor:
        return part * _fitting(self.by, part, at)


@dataclass(frozen=True, eq=False, repr=False)
class Zero(Edit):
    """Put zeros in the place of the activation: zero ablation.

    >>> model.run(prompt, edits=[lk.Zero("attn_out", layers=[3, 4])])  # doctest: +SKIP
    """

    def new(self, part: Tensor, at: At) -> Tensor:
        return torch.zeros_like(part)


@dataclass(frozen=True, eq=False, repr=False)
class Mean(Edit):
    """Put the mean over the batch's rows, over positions, or over both in the place of the activation: mean ablation.

    The mean is of the chosen part of this very forward. For the mean of a corpus, compute it and use `Set`.
    """

    _: KW_ONLY
    over: Literal["rows", "pos", "both"] = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over not in ("rows", "pos", "both"):
            raise ValueError(f"over must be 'rows', 'pos' or 'both', not {self.over!r}.")

    def new(self, part: Tensor, at: At) -> Tensor:
        if not at.gridded and self.over != "both":
            raise ValueError(f"{self!r}: the rows have different lengths. Use over='both', or choose positions.")
        axes = {"rows": [0], "pos": [at.pos_axis], "both": [0, at.pos_axis]}[self.over] if at.gridded else [0]
        if all(part.shape[axis] == 1 for axis in axes):
            raise NothingEdited(f"{self!r} takes the mean over one {'row' if self.over == 'rows' else 'place'} only.")
        return part.mean(axes, keepdim=True).expand_as(part)


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Edit):
    """Give each row the activation of another row of the batch: resampling ablation. No row keeps its own.

    The rows are dealt out at random, by `seed`.
    """

    _: KW_ONLY
    seed: int = 0

    def new(self, part: Tensor, at: At) -> Tensor:
        if not at.gridded:
            raise ValueError(f"{self!r}: the rows have different lengths. Choose positions that all of them have.")
        if len(part) < 2:
            raise NothingEdited(f"{self!r} needs at least two rows to take activations from.")
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(self.seed))
        source = torch.empty_like(order)
        source[order] = order.roll(1)
        return part[source.to(part.device)]


@dataclass(frozen=True, eq=False, repr=False)
class Project(Edit):
    """Remove what of the activation lies in the span of some directions; or, with `keep`, all else.

    directions: (d,) or (k, d), of any length and not necessarily orthogonal.
    """

    directions: Tensor
    _: KW_ONLY
    keep: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        made = torch.as_tensor(self.directions)
        if made.dim() not in (1, 2) or not bool(made.isfinite().all()) or not bool((made != 0).any()):
            raise ValueError(
                f"directions are one finite vector (d,) or several (k, d), and not zero; these are {shown(made)}."
            )
        object.__setattr__(self, "directions", made)

    @cached_property
    def basis(self) -> Tensor:
        """(rank, d), orthonormal, of the directions' span."""
        # On the CPU: not every device has float64, in which nearly parallel directions can still be told apart.
        _, sizes, basis = torch.linalg.svd(torch.atleast_2d(self.directions).cpu().double(), full_matrices=False)
        return basis[sizes > 1e-7 * sizes.max()]

    def new(self, part: Tensor, at: At) -> Tensor:
        if self.directions.shape[-1] != part.shape[-1]:
            raise ValueError(
                f"{self!r}: directions of {self.directions.shape[-1]} numbers for activations of {part.shape[-1]}."
            )
        wide = torch.promote_types(part.dtype, torch.float32)
        basis = self.basis.to(wide).to(part.device)
        inside = part.to(wide) @ basis.T @ basis
        return inside if self.keep else part - inside


@dataclass(frozen=True, eq=False, repr=False)
class Call(Edit):
    """Let a function of yours change the activation: `fn(tensor) -> tensor`. The one edit that cannot be saved.

    The function is given a copy of the chosen part, (row, pos, ...); or, if no rows, positions or heads are chosen, of
    the whole tensor in the site's own shape, of which what becomes of the padding is not used.

    >>> model.run(prompt, edits=[lk.Call("mlp_post", torch.relu, layers=[2])])  # doctest: +SKIP
    """

    fn: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.fn):
            raise TypeError(f"Call needs a function of a tensor, and {self.fn!r} is none.")

    def new(self, part: Tensor, at: At) -> Tensor:
        changed = self.fn(part.clone())
        if not isinstance(changed, Tensor):
            raise TypeError(f"{self!r}: fn returned {type(changed).__name__} and must return a tensor.")
        return changed


@dataclass(frozen=True, eq=False, repr=False)
class Splice(Edit):
    """Put a module between two sites: what it makes of `site` takes the place of what the model has at `into`.

    The seam for transcoders: `Splice("mlp_in", "mlp_out", transcoder, layers=8)` runs the transcoder instead of the
    MLP. Rows, positions and heads are chosen in `into`; the module is given a copy of the whole of `site`,
    (batch, pos, ...).

    error: what is added to the module's output, by layer: such as what it missed on this prompt.
    keeps_mean: whether the mean over the last axis that the model has there is added to the module's output: for a
        module that was made for activations without it.
    """

    into: str
    fn: Callable[[Tensor], Tensor]
    _: KW_ONLY
    error: Mapping[int, Tensor] | None = None
    keeps_mean: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        into = Site.parse(self.into)
        if into.layer is not None or into.head is not None:
            raise TypeError(f"say the layers of a Splice once, with layers=: into={into.name!r}.")
        object.__setattr__(self, "into", into.name)

    @property
    def writes(self) -> str:
        return self.into

    @property
    def reads(self) -> str:
        return self.site

    def new(self, part: Tensor, at: At) -> Tensor:
        raise NotImplementedError("a Splice reads one site and writes another (see running/act.py).")


def as_edits(edits: Edit | Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit or several, as a tuple. Raises `TypeError` for what is none."""
    given = (edits,) if isinstance(edits, Edit) else tuple(edits)
    for each in given:
        if not isinstance(each, Edit):
            raise TypeError(
                f"{each!r} is no edit. Edits are: Set, Add, Scale, Zero, Mean, Resample, Project, Patch, "
                "RemoveSubspace, AblateLayer, Steer, Swap, Ablate, Splice and Call."
            )
    return given


def _number_or_tensor(value: Any) -> Tensor | float:
    return value if isinstance(value, Tensor | float | int) else torch.as_tensor(value)


def _fitting(value: Tensor | float, part: Tensor, at: At) -> Tensor:
    """The value on the part's device and in its dtype, checked to broadcast to it."""
    made = torch.as_tensor(value)
    if made.is_floating_point() and not (part.is_floating_point() or part.is_complex()):
        raise ValueError(f"{at.edit!r}: {at.site} holds whole numbers, and the value has fractions.")
    made = made.to(part.device, part.dtype)
    try:
        fits = torch.broadcast_shapes(made.shape, part.shape) == part.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{at.edit!r}: a value of shape {tuple(made.shape)} does not fit what is chosen of {at.site}, "
            f"{tuple(part.shape)}."
        )
    return made.expand(part.shape)


def equal(a: Any, b: Any) -> bool:
    """Whether two values of an edit are equal, tensors by their numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return list(a) == list(b)
    return bool(a is b or a == b)


def shown(value: Any) -> str:
    """A value of an edit as its `repr` shows it: of a tensor the shape."""
    if isinstance(value, Tensor):
        return f"<{' x '.join(map(str, value.shape)) or 'number'}>"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if isinstance(value, Mapping):
        return f"<{len(value)} tensors>"
    return repr(value)
