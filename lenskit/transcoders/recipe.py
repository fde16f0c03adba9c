"""Recipe: everything that makes one training of a dictionary what it is, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypedDict, get_args

Kind = Literal["topk", "batchtopk", "relu", "jumprelu", "gated"]
Revival = Literal["aux-k", "ghost gradients", "resample", "none"]
Bias = Literal["mean", "geometric median", "zero"]


class Options(TypedDict, total=False):
    """The fields of a `Recipe`, as keyword arguments."""

    n_features: int
    activation: Kind
    k: int
    sparsity: float
    skip: bool
    lr: float
    warmup: float
    decay: float
    betas: tuple[float, float]
    batch: int
    unit_norm: bool
    start_bias: Bias
    revival: Revival
    dead_after: int
    aux_k: int
    resamplings: int
    bandwidth: float
    seed: int


@dataclass(frozen=True)
class Recipe:
    """How a dictionary is trained.

    Attributes:
        n_features: how many features.
        activation: "topk" or "batchtopk" with `k`; "relu" (an L1 penalty), "jumprelu" (an L0 penalty through
            straight-through estimates) or "gated" with `sparsity`.
        k: how many features are active, on average for "batchtopk".
        sparsity: the weight of the penalty, in units of the mean squared error of a token's standardised target.
        skip: a linear way past the features, which starts as the best linear map in closed form.
        lr, warmup, decay: Adam's rate; the share of the steps over which it rises; over which it falls to 0 at the end.
        betas: Adam's.
        batch: tokens in a step.
        unit_norm: keep each feature's decoder row at length 1.
        start_bias: where the decoder's bias begins: the targets' mean, their geometric median, or 0.
        revival: what is done for features that have not been active for `dead_after` tokens: "aux-k" lets the `aux_k`
            strongest of them explain what the others missed (Gao et al. 2024), "ghost gradients" gives all of them a
            gradient through an exponential (Jermyn & Templeton 2024), "resample" points them at tokens that are badly
            explained, `resamplings` times (Bricken et al. 2023).
        bandwidth: of the straight-through estimates of "jumprelu" (Rajamanoharan et al. 2024).
        seed: of the weights at the start and of the order of tokens.
    """

    n_features: int = 4096
    activation: Kind = "topk"
    k: int = 32
    sparsity: float = 1e-3
    skip: bool = False
    lr: float = 1e-3
    warmup: float = 0.05
    decay: float = 0.3
    betas: tuple[float, float] = (0.9, 0.999)
    batch: int = 1024
    unit_norm: bool = True
    start_bias: Bias = "mean"
    revival: Revival = "aux-k"
    dead_after: int = 100_000
    aux_k: int = 128
    resamplings: int = 4
    bandwidth: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("activation", Kind), ("revival", Revival), ("start_bias", Bias)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} is one of {', '.join(get_args(allowed))}, not {getattr(self, name)!r}.")
        if not 1 <= self.k <= self.n_features:
            raise ValueError(f"k={self.k} of {self.n_features} features cannot be active.")
        if self.batch < 1 or self.lr <= 0 or not 0 <= self.warmup + self.decay <= 1:
            raise ValueError(f"{self!r}: batch and lr are above 0, and warmup and decay together are at most 1.")

    def rate(self, step: int, steps: int) -> float:
        """By what Adam's rate is multiplied in a step: it rises in the beginning and falls in the end."""
        rising = min(1.0, (step + 1) / (self.warmup * steps)) if self.warmup * steps >= 1 else 1.0
        falling = min(1.0, (steps - step) / (self.decay * steps)) if self.decay * steps >= 1 else 1.0
        return min(rising, falling)

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Recipe:
        """Of what `as_dict` gave. Raises ValueError for fields that no recipe has."""
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}.")
        return cls(**{**given, "betas": tuple(given.get("betas", (0.9, 0.999)))})
