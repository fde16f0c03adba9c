"""Wrapped: what somebody has put around a model, or into it, before lenskit came: torch.compile and PEFT.

A wrapper is looked through, not taken off: the person keeps the object they have, and lenskit calls the Hugging Face
model within it, with all that was put into that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import nn


def innermost(model: nn.Module) -> nn.Module:
    """The model that computes, within those that wrap it.

    Raises `TypeError` for a PEFT model that is more than a model with adapters in it: its numbers would be others.
    """
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # an OptimizedModule of torch.compile
        return innermost(inner)
    peft: Any = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel):
        return model
    if reason := _why_not_within(model, peft):
        raise TypeError(
            f"lenskit cannot look into this {type(model).__name__}: {reason}. It can look into one whose adapters "
            "change weights, such as LoRA; or into the model without them, lk.Model(peft_model.get_base_model())."
        )
    return innermost(model.get_base_model())  # pyright: ignore[reportCallIssue] -- a PeftModel


def _why_not_within(model: Any, peft: Any) -> str | None:
    """Why calling the model within a PEFT model is not the same as calling that, or None where it is."""
    kinds = {name: config.peft_type.value for name, config in model.peft_config.items()}
    if model.active_peft_config.is_prompt_learning:
        return (
            f"{kinds[model.active_adapter]} puts learned vectors before the prompt, or before its keys, so the "
            "positions in it are not those of your tokens"
        )
    own = type(model.base_model).forward
    if own is not peft.tuners.tuners_utils.BaseTuner.forward:
        return f"its {type(model.base_model).__name__} does more than call the model that it has put adapters into"
    if any(getattr(config, "alora_invocation_tokens", None) for config in model.peft_config.values()):
        return "an activated LoRA sets in at certain tokens only, which it looks for outside of the model"
    return None


def adapters(modules: Iterable[nn.Module]) -> list[str]:
    """The names of the PEFT adapters that act at this moment; none where there are none or they are switched off."""
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None:
        return []
    layers: list[Any] = [module for module in modules if isinstance(module, tuners.BaseTunerLayer)]
    return list(dict.fromkeys(name for each in layers if not each.disable_adapters for name in each.active_adapters))


def eager(modules: Iterable[nn.Module], wrapped: bool | None = None) -> AbstractContextManager[object]:
    """While it lasts, modules that were compiled run as they are written: a compiled one has no places to look at.

    Compiled code passes hooks by, or is compiled anew for every other hook. Nothing is done where nothing is compiled.
    torch keeps this for the whole process; `standing` gives it back while a forward stands still. `wrapped` says if
    there is a `torch.compile(module)` among them, where that is known; what is compiled in place is always looked for.
    """
    modules = tuple(modules)
    if wrapped is None:
        wrapped = any(map(is_compiled, modules))
    if wrapped or any(map(COMPILED_IN_PLACE, modules)):
        return torch.compiler.set_stance("force_eager")
    return _AS_IT_IS


COMPILED_IN_PLACE = attrgetter("_compiled_call_impl")
"""Of a module, what `module.compile()` has put in the place of its call, or None."""
_AS_IT_IS = nullcontext()


def is_compiled(module: nn.Module) -> bool:
    """Whether this very module was compiled: in place, or as what `torch.compile(module)` gives."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules
