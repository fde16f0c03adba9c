"""Origin: where a result comes from, noted in a moment and written out when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from lenskit.models.edits import Edit


class Origin(NamedTuple):
    """What stood fast when something ran. Writing it out (`as_dict`) costs more than some forwards' bookkeeping."""

    model: str
    revision: str | None
    dtype: torch.dtype
    device: torch.device
    attention: str | None
    adapters: list[str]
    edits: tuple[Edit, ...]
    more: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Model, revision, dtype, device, attention, adapters, edits, versions and what else was said, as data."""
        return {
            "model": self.model,
            "revision": self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": self.attention,
            "adapters": self.adapters,
            "edits": [repr(edit) for edit in self.edits],
            "versions": dict(_versions()),
            **self.more,
        }


def attention_of(model: nn.Module) -> str | None:
    """The implementation of attention that a model uses; None where it has none to choose."""
    config: Any = getattr(model, "config", None)
    try:
        own = object.__getattribute__(config, "__dict__")  # past the configuration's own look-up, which takes its time
    except AttributeError:
        own = {}
    name = "_attn_implementation_internal"
    return own[name] if name in own else getattr(config, "_attn_implementation", None)


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("lenskit-interp", "torch", "transformers")}
