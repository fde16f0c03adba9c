"""Stored: what a file holds of a Jacobian lens, in one form whatever the file's own is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from lenskit.models.identity import Identity

SOURCES = ("resid_post", "z", "attn_out", "mlp_out")
"""By what derivatives can be taken: a layer's output, what its heads give, and what its attention and MLP add."""

Target = Literal["final", "penultimate"]
Matrices = dict[str, dict[int, Tensor]]
"""By source (`resid_post`, `z`, ...) and layer, (d_model out, d_in)."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A lens as a file has it.

    Attributes:
        form: which of the published forms it is, in words.
        matrices: by layer, (d_model, d_in), the output first; means, whatever the file had.
        source: what they are derivatives by, or None where the file does not say.
        target: which residual they are derivatives of, or None where the file does not say.
        target_layer: the layer whose output that is, where the file says so by number.
        identity: which model it belongs to, where the file says enough of it.
        model: the name of the model, where it says only that.
        about: all else that it says, as plain data.
        components: by other sources and layer, more matrices of the same lens.
    """

    form: str
    matrices: Mapping[int, Tensor]
    source: str | None = None
    target: Target | None = None
    target_layer: int | None = None
    identity: Identity | None = None
    model: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    components: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)

    @property
    def every(self) -> dict[str, Mapping[int, Tensor]]:
        """All matrices by source and layer, once the source is decided."""
        return {"resid_post": self.matrices, **self.components}
