"""check: measure, on this very model, that what lenskit reads is what the model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenskit.models.attention import attention_modules
from lenskit.models.identities import Identity, measured
from lenskit.models.running.attention_ops import listened_to
from lenskit.models.taps import first_tensor

if TYPE_CHECKING:
    from lenskit.models.model import Model

__all__ = ["Check", "Identity", "check"]


@dataclass(frozen=True)
class Check:
    """The identities of a model with their errors. `check.passed` is True when none is broken."""

    model: str
    identities: tuple[Identity, ...]

    @property
    def passed(self) -> bool:
        """Whether no identity is broken."""
        return all(identity.passed is not False for identity in self.identities)

    def __getitem__(self, name: str) -> Identity:
        return next(identity for identity in self.identities if identity.name == name)

    def __repr__(self) -> str:
        lines = [f"Check of {self.model}: {'every identity holds' if self.passed else 'BROKEN'}"]
        for one in self.identities:
            mark = {True: "ok    ", False: "BROKEN", None: "n/a   "}[one.passed]
            figure = one.reason if one.error is None else f"error {one.error:.1e}, tolerated {one.tolerance:.0e}"
            lines.append(f"  {mark} {one.name}: {figure}")
        return "\n".join(lines)


def check(model: Model, given: Tensor | None = None) -> Check:
    """Measure every identity of DESIGN's promises that this model can be asked about."""
    before = _left_on(model.hf_model)
    with model.anatomy.eagerly():  # compiled code rounds otherwise
        identities = [*measured(model)] if model.anatomy.is_language_model else [_plain(model, given)]
    identities.append(Identity("no hook is left", float(_left_on(model.hf_model) - before), 0.0))
    return Check(model.name, tuple(identities))


def _plain(model: Model, given: Tensor | None) -> Identity:
    """Of a plain module only its output can be compared."""
    if given is None:
        raise TypeError(f"{model.name} is a plain module: give check() a tensor that it runs on, model.check(tensor).")
    name = "output = the module's, bit by bit"
    with torch.no_grad():
        plain, again = (first_tensor(model.hf_model(given)) for _ in range(2))
    if plain is None or again is None:
        return Identity(name, None, 0.0, "the module gives no tensor")
    if not torch.equal(plain, again):
        return Identity(name, None, 0.0, "two calls of it differ: where dropout is active, model.hf_model.eval()")
    return Identity(name, float((model.run(given).logits != plain).sum()), 0.0)


def _left_on(model: nn.Module) -> int:
    """How many hooks, functions of our own and modules under watch there are."""
    from transformers import AttentionInterface

    modules = set(model.modules())
    registry = AttentionInterface._global_mapping
    ours = sum(getattr(function, "__module__", "").startswith("lenskit") for function in registry.values())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    listened = sum(module in modules for module in listened_to())
    stand_ins = sum("forward" in module.__dict__ for module in modules)
    return hooks + ours + listened + stand_ins + len(attention_modules(modules))
