"""Identity: which model something belongs to that was made for one, so that it is refused on another.

Lenses and dictionaries are such things; what is made for a model means nothing on another, and looks as if it did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from lenskit.models.finding.placed import is_plain
from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable


class ModelMismatch(ValueError):
    """Something was made for another model than the one it is to be used with; the message says what differs."""


@dataclass(frozen=True)
class Identity:
    """What a file remembers of the model it belongs to. What a published one does not say is None.

    Attributes:
        model, revision: what the model was loaded from.
        d_model, n_layers: its sizes.
        dtype: of its weights.
        unembed_hash: tuned-lens's hash of the unembedding, which sees a corner of it, rounded to one digit.
        tail_hash: SHA-256 of the final norm's and the unembedding's numbers, to the last bit.
    """

    model: str
    d_model: int
    n_layers: int
    revision: str | None = None
    dtype: str | None = None
    unembed_hash: str | None = None
    tail_hash: str | None = None

    @classmethod
    def of(cls, model: Model) -> Identity:
        """The identity of a model. Raises `SiteUnavailable` for what is no language model."""
        return cls(
            model=model.name,
            revision=model.revision,
            d_model=d_model_of(model),
            n_layers=model.n_layers,
            dtype=str(model.dtype).removeprefix("torch."),
            unembed_hash=unembed_hash(model),
            tail_hash=tail_hash(model),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Identity:
        """Read what `as_dict` wrote. Raises `ValueError` where something is missing or unknown."""
        known = {field.name for field in fields(cls)}
        if wrong := values.keys() ^ known:
            raise ValueError(f"the model's identity has or lacks {', '.join(sorted(wrong))}.")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def why_not(self, here: Identity) -> str | None:
        """Why something of this identity is not for the model `here`; None where it is."""
        for name, what in (("d_model", "d_model"), ("n_layers", "layers")):
            mine, theirs = getattr(self, name), getattr(here, name)
            if mine != theirs:
                return f"it has {what} {mine}, and this model {theirs}"
        if self.unembed_hash and here.unembed_hash and self.unembed_hash != here.unembed_hash:
            return (
                "its unembedding is another (hash "
                f"{self.unembed_hash[:12]}, and here {here.unembed_hash[:12]}), so its predictions would mean nothing"
            )
        # In another dtype the same weights have other bits: then the rounded hash has to do.
        if self.tail_hash and here.tail_hash and self.dtype == here.dtype and self.tail_hash != here.tail_hash:
            return "its final norm or unembedding differs in some numbers: it is of another checkpoint"
        compared = (self.unembed_hash and here.unembed_hash) or (self.tail_hash and here.tail_hash)
        if not compared and self.model.split("/")[-1] != here.model.split("/")[-1]:
            return f"it says nothing of the model's unembedding, and that it is for {self.model!r}"
        return None

    def check(self, model: Model, what: str, instead: str) -> None:
        """Raise `ModelMismatch` unless this is the identity of `model`.

        what: what was made for it, in words: "the lens at PATH". instead: what to do, but for loading that model.
        """
        if reason := self.why_not(Identity.of(model)):
            revision = f" ({self.revision})" if self.revision else ""
            raise ModelMismatch(
                f"{what} is not one for {model.name}: {reason}. It was made for {self.model}{revision}: load that "
                f"model, or {instead}."
            )


def d_model_of(model: Model) -> int:
    """The width of the residual stream, as the model's first block reads it."""
    return model.anatomy.probe.residuals(model.anatomy.blocks[0])[0].shape[-1]


def unembed_hash(model: Model) -> str | None:
    """tuned-lens's hash of the unembedding (`Unembed.unembedding_hash`); None where its numbers cannot be read.

    It is the SHA-256 of what numpy prints of the matrix at one decimal: six columns of six rows.
    """
    weight: Any = getattr(model.anatomy.model.get_output_embeddings(), "weight", None)  # pyright: ignore[reportCallIssue]
    if not is_plain(weight):
        return None
    with np.printoptions(edgeitems=3, threshold=1000, linewidth=75, suppress=False, formatter=None, sign="-"):
        printed = np.array_str(weight.detach().cpu().float().numpy(), precision=1)
    return hashlib.sha256(printed.encode()).hexdigest()


def tail_hash(model: Model) -> str | None:
    """SHA-256 of everything between the final residual and the logits; None where some of it cannot be read."""
    try:
        tail = model.anatomy.tail
    except SiteUnavailable:
        return None
    digest = hashlib.sha256(f"{tail.scale:.6g} {tail.softcap} {tail.before_head:.6g}".encode())
    for module in (*tail.modules, tail.head):
        for name, weight in module.named_parameters():
            if not is_plain(weight):
                return None
            digest.update(name.encode())
            with torch.no_grad():
                digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
