"""Recipe: everything that decides how a tuned lens is trained, as one small value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Loss = Literal["kl", "ce"]
Optimizer = Literal["sgd", "adam"]

MOMENTUM = 0.9
LEARNING_RATES = {"sgd": 1.0, "adam": 1e-3}


@dataclass(frozen=True)
class Recipe:
    """How a lens is trained. Every default is written out, so that what is saved with a lens says all.

    Attributes are the arguments of `TunedLens.train`.
    """

    layers: tuple[int, ...]
    loss: Loss
    optimizer: Optimizer
    lr: float
    warmup: int
    weight_decay: float
    token_shift: int
    bias_only: bool
    steps: int
    tokens_per_step: int
    accumulate: int
    chunk: int
    clip: float | None
    skip_first: int
    seed: int

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss is 'kl' or 'ce', not {self.loss!r}.")
        if self.optimizer not in LEARNING_RATES:
            raise ValueError(f"optimizer is 'sgd' or 'adam', not {self.optimizer!r}.")
        if self.tokens_per_step % (self.chunk * self.accumulate) or self.tokens_per_step < 1:
            raise ValueError(
                f"tokens_per_step={self.tokens_per_step:,} cannot be made of {self.accumulate} equal passes of whole "
                f"chunks of {self.chunk}: take a multiple of {self.chunk * self.accumulate:,}."
            )
        for name in ("steps", "accumulate", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is more than 0, not {getattr(self, name)}.")

    @property
    def chunks_per_step(self) -> int:
        """How many chunks make a step, over all passes and processes."""
        return self.tokens_per_step // self.chunk

    @property
    def ahead(self) -> int:
        """How far ahead of a row the final residual stands that it should equal; where the loss is CE, one predicts."""
        return self.token_shift - (self.loss == "ce")

    def rate(self, step: int) -> float:
        """The learning rate of a step: it rises over the warm-up and then falls in a straight line, to 0 at the end."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (self.steps - step) / max(1, self.steps - self.warmup)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"layers": list(self.layers)}

    def differs(self, other: Mapping[str, Any]) -> str | None:
        """In what `as_dict` of another recipe differs, in words; None where it does not."""
        mine = self.as_dict()
        wrong = [name for name in mine if name not in other or other[name] != mine[name]]
        return ", ".join(f"{name}={other.get(name)!r} and not {mine[name]!r}" for name in wrong) or None

    def make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of these parameters. Weight decay pulls the translators to zero: the lens to the identity."""
        if self.optimizer == "adam":
            return torch.optim.AdamW(
                parameters, self.lr, betas=(MOMENTUM, 0.999), weight_decay=self.weight_decay, fused=True
            )
        # torch's momentum sums up gradients, which multiplies the rate by 1 / (1 - momentum).
        return torch.optim.SGD(
            parameters,
            self.lr * (1 - MOMENTUM),
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give the optimizer the rate of this step."""
        factor = 1 - MOMENTUM if self.optimizer == "sgd" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step) * factor
