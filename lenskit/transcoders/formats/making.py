"""Making a dictionary of what a format's reader took from the files, and the arithmetic that several formats need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lenskit.models.files.load_error import LoadError
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.activations import Activation, Gated, JumpReLU
from lenskit.transcoders.formats.places import BARE, in_model
from lenskit.transcoders.formats.source import Asked, Source
from lenskit.transcoders.transcoder import Normalisation, Transcoder, activation_tensors

_KEPT_SPARSITY = 32_768  # features, of which a file's log sparsity is kept


@dataclass
class Taken:
    """The tensors of one file, each taken once, as floats, and checked; those left over are known."""

    source: Source
    name: str
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.weights = self.source.weights[self.name]
        self.left = set(self.weights.shapes)

    def __call__(self, tensor: str, shape: Sequence[int | None] | None = None, at: int | None = None) -> Tensor:
        """A tensor. Raises `LoadError` where it is not there, of another shape, or not of finite numbers."""
        found = self.weights.shapes.get(tensor)
        if found is None:
            raise LoadError(f"{self.where} holds no {tensor}: it has {', '.join(sorted(self.weights.shapes)[:12])}.")
        if shape is not None and (
            len(found) != len(shape) or any(b not in (None, a) for a, b in zip(found, shape, strict=True))
        ):
            raise LoadError(f"{self.where} has a {tensor} of {found}, where {tuple(shape)} would fit.")
        self.left.discard(tensor)
        value = self.weights.take(tensor, at)
        if value.is_complex():
            raise LoadError(f"{self.where} has a {tensor} of complex numbers.")
        value = value.to(self.dtype)
        if not bool(value.isfinite().all()):
            raise LoadError(f"{self.where} has a {tensor} with numbers that are none, or do not fit {self.dtype}.")
        return value

    def optional(self, tensor: str, shape: Sequence[int | None] | None = None) -> Tensor | None:
        """A tensor, or None where it is not there."""
        return self(tensor, shape) if tensor in self.weights.shapes else None

    def number(self, tensor: str) -> float | None:
        """A tensor of a single number, or None where it is not there."""
        if tensor not in self.weights.shapes:
            return None
        self.left.discard(tensor)
        value = self.weights.take(tensor)
        if value.numel() != 1:
            raise LoadError(f"{self.where} has a {tensor} of {tuple(value.shape)}, where one number would fit.")
        return float(value)

    def refuse_the_rest(self) -> None:
        """Raise `LoadError` where the file holds something that has not been taken: it would change the result."""
        if self.left:
            raise LoadError(f"{self.where} also holds {', '.join(sorted(self.left)[:8])}, whose meaning is not known.")

    @property
    def where(self) -> str:
        """The file, for messages."""
        return str(self.source.folder / self.name)


@dataclass
class Made:
    """The fields of a dictionary in the making; those of `Transcoder`, with W_enc (feature, d_in)."""

    W_enc: Tensor
    b_enc: Tensor | None
    W_dec: Tensor
    b_dec: Tensor | None
    activation: Activation
    reads: Site
    writes: tuple[Site, ...]
    W_skip: Tensor | None = None
    centre: Tensor | None = None
    normalise: Normalisation = "none"
    restores: bool = True
    centred_output: bool = False

    def scale_input(self, factor: float) -> None:
        """Fold into the weights that what is read, and what is written, was multiplied by a number in training."""
        self.W_enc = self.W_enc * factor
        self.W_dec = self.W_dec / factor
        self.b_dec = None if self.b_dec is None else self.b_dec / factor
        self.centre = None if self.centre is None else self.centre / factor

    def centre_input(self) -> None:
        """Fold into the encoder that the mean over the last axis was taken off what is read."""
        if self.centre is not None:
            b_enc = self.W_enc.new_zeros(len(self.W_enc)) if self.b_enc is None else self.b_enc
            self.b_enc = b_enc - self.W_enc @ self.centre
            self.centre = None
        self.W_enc = self.W_enc - self.W_enc.mean(1, keepdim=True)
        if self.W_skip is not None:
            self.W_skip = self.W_skip - self.W_skip.mean(-1, keepdim=True)

    def unfold_norm(self, model: Model) -> None:
        """Read what stands after the gain g and bias b of a norm where what stood before them, x, was read: g x + b."""
        found = BARE.fullmatch(self.reads.name)
        assert found is not None
        layer, name = int(found[1]), "attn_in" if found[2] == "1" else "mlp_in"
        where = f"the norm before {name} of layer {layer} of {model.name}"
        if self.normalise != "none" or self.reads in self.writes:
            raise LoadError(f"it writes what it reads before the gain of {where}, or normalises that: not represented.")
        norm = model.weights.norm(name, layer)
        gain = self.W_enc.new_ones(self.W_enc.shape[1]) if norm.gain is None else norm.gain.to(self.W_enc)
        bias = self.W_enc.new_zeros(self.W_enc.shape[1]) if norm.bias is None else norm.bias.to(self.W_enc)
        if gain.shape != self.W_enc.shape[1:] or bool((gain == 0).any()):
            raise LoadError(f"{where} is of another width, or multiplies some numbers by 0: it cannot be undone.")
        self.W_enc = self.W_enc / gain
        self.centre = bias if self.centre is None else self.centre * gain + bias
        if self.W_skip is not None:
            self.W_skip = self.W_skip / gain
            shift = self.W_skip @ bias
            self.b_dec = -shift if self.b_dec is None else self.b_dec - shift
        self.reads = Site(name, layer)

    def scale_features(self, by: Tensor) -> None:
        """Make each feature (feature,) so many times as active, and what it writes so many times smaller.

        Nothing that is written changes. A feature that writes nothing, and is scaled by 0, stays as it is.
        """
        by = torch.where(by > 0, by, torch.ones_like(by))
        self.W_dec = self.W_dec / by[:, None]
        if isinstance(self.activation, Gated):
            gated = self.activation
            self.activation = Gated(gated.gate_bias, gated.log_scale + by.log(), gated.bias * by)
            return
        self.W_enc = self.W_enc * by[:, None]
        self.b_enc = None if self.b_enc is None else self.b_enc * by
        if isinstance(self.activation, JumpReLU):
            self.activation = JumpReLU(self.activation.threshold * by)

    def transcoder(self, asked: Asked, about: Mapping[str, Any]) -> Transcoder:
        """The dictionary, at the sites that the person who loads it names, or as the model calls them."""
        about = dict(about)
        if asked.reads is None and BARE.fullmatch(self.reads.name):
            if asked.model is not None:
                self.unfold_norm(asked.model)
            else:
                about["reads"] = "normalised, and without the gain and bias of the norm: load it with model="
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["reads"] = asked.reads or in_model(self.reads, asked.model)
        values["writes"] = asked.writes or tuple(in_model(site, asked.model) for site in self.writes)
        return Transcoder(**values, about=about)


def above_zero(threshold: Tensor) -> JumpReLU:
    """The activation relu(x) where x is above its threshold: as a threshold that is never below 0."""
    return JumpReLU(threshold.clamp_min(0.0))


def as_tensors(activation: Activation) -> dict[str, Tensor]:
    """The tensors of an activation, as they are named in lenskit's own file."""
    return {f"activation.{name}": value for name, value in activation_tensors(activation).items()}


def sparsity(values: Tensor | None, n_features: int) -> list[float] | None:
    """A file's log10 sparsity as plain numbers, where it is of these features and not too long to be kept."""
    if values is None or tuple(values.shape) != (n_features,) or n_features > _KEPT_SPARSITY:
        return None
    finite = values.float().clamp(-100, 100).nan_to_num(-100)
    return [round(value, 4) for value in finite.tolist()]
