"""Steps of paths: everything that gives to a vector of the residual stream directly, and the vector behind each.

The residual stream at a position is a sum: the token's embedding, what each head has brought from each position, and
what each MLP has written there, taken apart into features, what goes past these, and what they miss. Along a vector
each part is a number, and these sum to what the vector gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenskit.circuits.along_paths.notation import COMPONENTS, Component, Step
from lenskit.circuits.along_paths.path_vectors import Vector, back_through, norm_and_stream
from lenskit.circuits.attributing.bases import bases_of
from lenskit.circuits.attributing.basis import Active, Basis
from lenskit.circuits.attributing.put_in import PutIn
from lenskit.circuits.attributing.replacement import Replacement
from lenskit.circuits.attributing.targets import reading_site
from lenskit.circuits.by_weights.stream import comes_before
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model

_HALF, _SINGLE = 5e-2, 1e-3
ENDS: tuple[Component, ...] = ("mlp", "error", "bias")
"""What is not explained further because it is no sum of anything: these, and embeddings."""


class Terms(NamedTuple):
    """All that gives to a vector directly: (term,) each.

    Attributes:
        component: its place in `COMPONENTS`.
        layer, number, pos, contribution: as in `Step`.
    """

    component: np.ndarray
    layer: np.ndarray
    number: np.ndarray
    pos: np.ndarray
    contribution: np.ndarray

    @classmethod
    def one(cls, component: Component, layer: int, number: int, pos: int, contribution: float) -> Terms:
        """A single one."""
        return cls.many(component, layer, np.array([number]), np.array([pos]), np.array([contribution]))

    @classmethod
    def many(cls, component: Component, layer: int, number: np.ndarray, pos: np.ndarray, given: np.ndarray) -> Terms:
        """Several of one component and layer."""
        count = len(number)
        return cls(np.full(count, COMPONENTS.index(component)), np.full(count, layer), number, pos, given.astype(float))

    def step(self, term: int) -> Step:
        """One of them."""
        where = int(self.layer[term]), int(self.number[term]), int(self.pos[term])
        return Step(COMPONENTS[self.component[term]], *where, float(self.contribution[term]))

    def places(self, *components: Component) -> np.ndarray:
        """Which are of these components."""
        return np.flatnonzero(np.isin(self.component, [COMPONENTS.index(each) for each in components]))


class Made(NamedTuple):
    """How a feature comes about: `value = direction @ x + constant`, x being what it reads."""

    direction: Tensor
    constant: float
    value: float


@dataclass(frozen=True, eq=False)
class HeldPrompt:
    """A prompt's forward, held as it was, to walk backwards in.

    Attributes:
        put: the forward, and what is put into it.
    """

    put: PutIn

    @classmethod
    def of(cls, model: Model, tokens: Tensor, transcoders: Sequence[Transcoder], neurons: bool) -> HeldPrompt:
        """Run a prompt (1, pos) and keep what is needed.

        Raises `SiteUnavailable` where heads cannot be told apart, or attention patterns or norms cannot be held.
        """
        layers = range(model.n_layers)
        for layer in layers:
            _check_heads(model, layer)
        bases = bases_of(model, transcoders, neurons)
        ends = [reading_site(model), *(basis.reads for basis in bases), *(Site("attn_in", layer) for layer in layers)]
        streams = [norm_and_stream(model, site)[1] for site in ends]
        heads = [Site(name, layer) for layer in layers for name in ("v", "z")]
        return cls(PutIn.of(model, tokens, bases, dict.fromkeys([*ends, *streams, *heads])))

    @property
    def model(self) -> Model:
        """The model."""
        return self.put.model

    @property
    def replacement(self) -> Replacement:
        """The prompt's forward as an affine function."""
        return self.put.replacement

    @property
    def bases(self) -> Sequence[Basis]:
        """The features of the layers that have some."""
        return self.put.bases

    @property
    def length(self) -> int:
        """How many tokens there are."""
        return self.replacement.tokens.shape[1]

    def read(self, site: Site) -> Tensor:
        """(pos, ...): what stood at a site."""
        return wide(self.replacement.read[site].detach()[0])

    def basis_of(self, layer: int) -> Basis:
        """The features that read a layer. Raises `ValueError` where there are none."""
        found = next((basis for basis in self.bases if basis.layer == layer), None)
        if found is None:
            there = ", ".join(str(basis.layer) for basis in self.bases) or "none"
            raise ValueError(
                f"layer {layer} has no features here; these layers have: {there}. Give its transcoder, or neurons=True."
            )
        return found

    def component_of(self, layer: int) -> Component:
        """What the features that read a layer are called in paths: "tc" or "neuron"."""
        return "neuron" if self.basis_of(layer).kind == "neurons" else "tc"

    def vector(self, site: Site, pos: int, direction: Tensor, constant: float) -> Vector:
        """A direction of what stands at a site, and a constant, as a vector of the residual stream."""
        norm, stream = norm_and_stream(self.model, site)
        back, shift = back_through(norm, direction, self.read(stream)[pos])
        return Vector(stream, pos, back, constant + shift)

    # What gives to a vector

    @torch.no_grad()
    def terms(self, vector: Vector, expected: float) -> Terms:
        """All that gives to a vector directly, whatever its size.

        expected: to what they sum. Raises `SiteUnavailable` where they do not.
        """
        parts, bias = [self._embedding(vector)], vector.constant + self._position_bias(vector)
        for layer in range(self.model.n_layers):
            if comes_before(self.model, Site("attn_out", layer), vector.stream):
                given, constant = self._heads(vector, layer)
                parts.append(given)
                bias += constant
        for found, constant in (*self._features(vector), *self._misses(vector)):
            parts += found
            bias += constant
        parts.append(Terms.one("bias", -1, -1, vector.pos, bias))
        made = Terms(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        self._check_sum(made, expected)
        return made

    def _embedding(self, vector: Vector) -> Terms:
        return Terms.one("embed", -1, -1, vector.pos, float(self.put.embeddings[vector.pos] @ vector.direction))

    def _position_bias(self, vector: Vector) -> float:
        return float(self.put.positions[vector.pos] @ vector.direction)

    def _heads(self, vector: Vector, layer: int) -> tuple[Terms, float]:
        """What each head brings from each position, and what the biases of attention's output give."""
        back, constant = self._before_writing("W_O", layer, vector)
        at_head = wide(self.model.weights.W_O[layer]) @ back
        pattern = wide(self.replacement.patterns[layer].detach()[0, :, vector.pos])
        given = pattern * torch.einsum("phd,hd->hp", self._values(layer), at_head)
        heads, sources = np.indices(given.shape)
        found = Terms.many("attn", layer, heads.ravel(), sources.ravel(), given.flatten().cpu().numpy())
        return found, constant + float(wide(self.model.weights.b_O[layer]) @ back)

    def _values(self, layer: int) -> Tensor:
        group = self.model.weights.found.parts.group(layer)
        return self.read(Site("v", layer)).repeat_interleave(group, 1)

    def _before_writing(self, name: str, layer: int, vector: Vector) -> tuple[Tensor, float]:
        """The vector's direction where `W_O` or `W_out` of a layer writes: before a norm that stands behind it."""
        writer = self.model.weights.found.parts.writer(name, layer)
        if writer.post_norm is None:
            return vector.direction, 0.0
        weights = self.model.weights
        if name == "W_O":
            inner, matrix, bias = self.read(Site("z", layer)), weights.W_O[layer].flatten(0, 1), weights.b_O[layer]
        else:
            inner = wide(self.replacement.put_in[Site("mlp_post", layer)].detach()[0])
            matrix, bias = weights.W_out[layer], weights.b_out[layer]
        before = inner[vector.pos].flatten() @ wide(matrix) + wide(bias)
        return back_through(writer.post_norm, vector.direction * writer.factor, before)

    def _features(self, vector: Vector) -> Iterator[tuple[list[Terms], float]]:
        """Of each layer's features, those that are active, what goes past them, and what biases give."""
        for basis, active in zip(self.bases, self.put.active, strict=True):
            sites = [site for site in basis.writes if comes_before(self.model, site, vector.stream)]
            if not sites:
                continue
            gradients, constant = dict[Site, Tensor](), 0.0
            for site in sites:
                direction, given = self._at_writing(basis, site, vector)
                gradients[site] = direction.new_zeros(1, self.length, len(direction))
                gradients[site][0, vector.pos] = direction
                constant += given
            here = Active(*(column[active.pos == vector.pos] for column in active))
            given = basis.reached(self.replacement, here, gradients)[0].cpu().numpy()
            pos, features = np.full(len(given), vector.pos), here.features.cpu().numpy()
            found = [Terms.many(self.component_of(basis.layer), basis.layer, features, pos, given)]
            if (past := self._past(basis, vector)) is not None:
                found.append(Terms.one("skip", basis.layer, -1, vector.pos, past[1]))
            yield found, constant

    def _at_writing(self, basis: Basis, site: Site, vector: Vector) -> tuple[Tensor, float]:
        """The vector's direction where features write, and what a bias gives there."""
        if basis.kind == "neurons":
            back, constant = self._before_writing("W_out", basis.layer, vector)
            weights = self.model.weights
            inside = wide(weights.W_out[basis.layer]) @ back
            return inside, constant + float(wide(weights.b_out[basis.layer]) @ back)
        bias = basis.constant(self.replacement, site)
        if bias is None:
            return vector.direction, 0.0
        bias = bias[vector.pos] if bias.dim() == 2 else bias
        return vector.direction, float(bias.to(vector.direction) @ vector.direction)

    @torch.enable_grad()
    def _past(self, basis: Basis, vector: Vector) -> tuple[Tensor, float] | None:
        """What goes past the features: by which direction of what they read, and what it gives; None for nothing."""
        ways = [way for way in basis.past() if comes_before(self.model, way.writes, vector.stream)]
        if not ways:
            return None
        x = self.read(basis.reads)[None, vector.pos, None].clone().requires_grad_()
        made = sum(
            (way.fn(x, x.detach())[0, 0].to(vector.direction) @ vector.direction for way in ways), x.new_zeros(())
        )
        return torch.autograd.grad(made, x)[0][0, 0], float(made.detach())

    def _misses(self, vector: Vector) -> Iterator[tuple[list[Terms], float]]:
        """What dictionaries miss of what each MLP writes, or all of it where it has no features."""
        for layer, missed in self.put.missed.items():
            site = Site("mlp_out", layer)
            if comes_before(self.model, site, vector.stream):
                dictionaries = [basis for basis in self.bases if site in basis.writes]
                given = float(missed[vector.pos] @ vector.direction)
                component: Component = "error" if dictionaries else "mlp"
                yield [Terms.one(component, layer, -1, vector.pos, given)], 0.0

    def _check_sum(self, terms: Terms, expected: float) -> None:
        size = np.abs(terms.contribution).sum()
        error = abs(terms.contribution.sum() - expected) / max(size, 1e-6)
        if error > (_HALF if self.model.dtype.itemsize < 4 else _SINGLE):
            raise SiteUnavailable(
                f"no paths of {self.model.anatomy.family} can be told: with attention patterns and norms held, what "
                f"embedding, heads and MLPs give does not add up to what they give together (off by {error:.1e} of the "
                "parts' sizes), so something else writes to its residual stream, or is not linear."
            )

    # The vector behind a step

    @torch.no_grad()
    def behind(self, vector: Vector, step: Step) -> Vector | None:
        """By which vector a step that gives to one is given itself, in the same units; None for one that is not.

        step: one of the vector's terms, with what it gives.
        """
        match step.component:
            case "attn":
                return self._behind_head(vector, step)
            case "skip":
                reads = self.basis_of(step.layer).reads
                past = self._past(self.basis_of(step.layer), vector)
                assert past is not None  # else it were no term of this vector
                return self.vector(reads, step.pos, past[0], 0.0)
            case "tc" | "neuron":
                made = self.made_by(step)
                # By what its value counts: a neuron's activation is held to be a multiple of its pre-activation.
                times = step.contribution / made.value if made.value else 0.0
                reads = self.basis_of(step.layer).reads
                return self.vector(reads, step.pos, made.direction * times, made.constant * times)
            case _:
                return None

    def made_by(self, step: Step) -> Made:
        """How a feature comes about, whether it is active or not."""
        basis, device = self.basis_of(step.layer), self.replacement.tokens.device
        feature, pos = (torch.tensor([each], device=device) for each in (step.number, step.pos))
        read = basis.read(self.replacement, feature, pos)
        direction, constant = wide(read.vectors[0]), float(read.constants[0])
        return Made(direction, constant, float(self.read(basis.reads)[step.pos].to(direction) @ direction) + constant)

    def activation(self, step: Step) -> float:
        """How active a feature is; 0 where it is not."""
        active = self.put.active[list(self.bases).index(self.basis_of(step.layer))]
        here = (active.pos == step.pos) & (active.features == step.number)
        return float(active.activations[here].sum())

    def _behind_head(self, vector: Vector, step: Step) -> Vector:
        back, _ = self._before_writing("W_O", step.layer, vector)
        weights, head = self.model.weights, step.number
        shared = head // weights.found.parts.group(step.layer)
        looked = float(self.replacement.patterns[step.layer][0, head, vector.pos, step.pos])
        at_head = wide(weights.W_O[step.layer][head]) @ back * looked
        constant = float(wide(weights.b_V[step.layer][shared]) @ at_head)
        return self.vector(
            Site("attn_in", step.layer), step.pos, wide(weights.W_V[step.layer][shared]) @ at_head, constant
        )


def _check_heads(model: Model, layer: int) -> None:
    """Raise `SiteUnavailable` where what attention writes is not the sum of what heads bring from each position."""
    model.anatomy.spot(Site("pattern", layer))
    model.anatomy.spot(Site("v", layer))
    parts = model.weights.found.parts
    parts.writer("W_O", layer)
    parts.norm("attn_in", layer)
    parts.group(layer)
    reader, family = parts.reader("W_V", layer), f"layer {layer} of {model.anatomy.family}"
    if not parts.layers[layer].mixed:
        raise SiteUnavailable(
            f"no paths lead through the heads of {family}: a gate or a norm stands between their values and W_O."
        )
    if reader.note:
        raise SiteUnavailable(f"no paths lead through the heads of {family}: W_V is {reader.note}.")
