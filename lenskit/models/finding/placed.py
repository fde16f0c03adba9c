"""Placed: where a model's weights are, and where its token ids go, when they are not all in one place.

With `device_map`, accelerate puts a forward of its own before that of each module, which brings the weights from disk
or memory when they are needed and takes them away again. Between the calls such a weight is on the `meta` device:
it has a shape, and no numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def entrance(model: nn.Module, first: nn.Module | None) -> torch.device:
    """The device on which the model takes its input; `first` is the module that reads it, where that is known."""
    module = model if first is None else first
    weight = module._parameters.get("weight")  # where it nearly always is: this is asked in every run
    if weight is None:
        weight = next(module.parameters(), None)
    if weight is None:
        weight = next(chain(model.parameters(), model.buffers()), None)
    if weight is None or not weight.is_meta:
        return torch.device("cpu") if weight is None else weight.device
    # Where the weight is brought to when it is needed; accelerate moves what goes in to there, too.
    for module in (*(() if first is None else first.modules()), *model.modules()):
        for mover in _movers(module):
            if mover.execution_device is not None:
                return torch.device(mover.execution_device)
    return weight.device


def dtype_of(model: nn.Module, first: nn.Module | None) -> torch.dtype:
    """The dtype of the module that reads what goes in; of a quantised one, that of the first weight that is not."""
    module = model if first is None else first
    weight = module._parameters.get("weight")
    if weight is None:
        weight = next(module.parameters(), None)
    if weight is None or not weight.is_floating_point():
        weight = next((each for each in model.parameters() if each.is_floating_point()), None)
    return torch.get_default_dtype() if weight is None else weight.dtype


def device_and_dtype(model: nn.Module, first: nn.Module | None) -> tuple[torch.device, torch.dtype]:
    """`entrance` and `dtype_of` in one look: this is asked at the end of every run."""
    weight = None if first is None else first._parameters.get("weight")
    if weight is None or weight.is_meta or not weight.is_floating_point():
        return entrance(model, first), dtype_of(model, first)
    return weight.device, weight.dtype


def is_offloaded(model: nn.Module) -> bool:
    """Whether some of the weights are brought only while they are needed."""
    return any(mover.offload for module in model.modules() for mover in _movers(module))


def without_numbers(model: nn.Module) -> str | None:
    """Why the model has no numbers to compute with; None where every weight is there, or is brought when needed."""
    absent = next(_absent(model, "", False), None)
    if absent is None:
        return None
    return (
        f"its weights are on the meta device ({absent} is), where they have shapes and no numbers. Load them: "
        "lk.load(name) does, or load_state_dict(..., assign=True)"
    )


def is_plain(weight: object) -> bool:
    """Whether a weight is numbers that can be read as they are: not quantised, and not on the meta device."""
    return type(weight) in (nn.Parameter, Tensor) and weight.is_floating_point() and weight.device.type != "meta"  # pyright: ignore[reportAttributeAccessIssue]


def _absent(module: nn.Module, prefix: str, brought: bool) -> Iterator[str]:
    movers = _movers(module)
    if not brought and not any(mover.offload for mover in movers):
        for name, weight in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            if weight.device.type == "meta":
                yield prefix + name
    below = brought or any(mover.offload and mover.place_submodules for mover in movers)
    for name, child in module.named_children():
        yield from _absent(child, f"{prefix}{name}.", below)


def _movers(module: nn.Module) -> list[Any]:
    """accelerate's hooks on a module that move weights and inputs."""
    hook = getattr(module, "_hf_hook", None)
    found = getattr(hook, "hooks", (hook,))
    return [each for each in found if hasattr(each, "execution_device") and hasattr(each, "offload")]
