"""Transcoder: a sparse dictionary that reads one site of a model and writes another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenskit.models.identity import Identity
from lenskit.models.running.plan import sites_of
from lenskit.models.sites import HEADED, Site, SiteLike
from lenskit.transcoders.activations import Activation, Gated, JumpReLU, Picked
from lenskit.transcoders.codes import Codes
from lenskit.transcoders.trained import OfTheClass, trained, trained_all

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.transcoders.files import Header
    from lenskit.transcoders.history import History

Normalisation = Literal["none", "norm", "layer norm"]

# So many tokens at once: their pre-activations still fit the cache of a processor, and the product runs at its peak.
_BLOCK = 256
_MOST = 64 << 20  # numbers in one block of pre-activations, whatever the number of features


class Transcoder(nn.Module):
    """A sparse dictionary: it reads one site, writes another, and goes through a few of many features in between.

    One whose two sites are the same is a sparse autoencoder (SAE); one that writes several is a cross-layer transcoder.
    With `x` what it reads, normalised as `normalise` says,

        features = activation(W_enc (x - centre) + b_enc),    output = features W_dec + b_dec + W_skip x

    and the normalisation is undone at the end. All conventions of published dictionaries are turned into these fields.
    A site with heads that is read whole, such as `z`, may be given as it is, (..., head, d_head): the dictionary reads
    its heads side by side, and writes them so.

    Args:
        W_enc: (feature, d_in).
        b_enc: (feature,), or None for zeros.
        W_dec: (feature, d_out), or (write, feature, d_out) where it writes several sites.
        b_dec: (d_out,) or (write, d_out), or None for zeros.
        activation: `ReLU() TopK(k) BatchTopK(k) JumpReLU(threshold) Gated(...) GroupMax(k)`.
        reads: the site that it reads, with its layer: `("mlp_in", 8)`.
        writes: the site that it writes, or several.
        W_skip: (d_out, d_in) or (write, d_out, d_in): a linear way past the features.
        centre: (d_in,), subtracted before the encoder. Published SAEs often subtract `b_dec` there.
        normalise: what is done to each token first: "norm" brings it to the length sqrt(d_in); "layer norm" takes off
            its mean and divides by its standard deviation (that of a sample) plus 1e-5.
        restores: whether the output is scaled back, by the length or the standard deviation, and the mean put back.
        centred_output: what it writes is the site's value less its mean over the last axis, as it is where the model
            was trained on with its writing weights centred.
        about: where it comes from, as plain data: the model, the format, the corpus.

    Its `identity` says which model it belongs to, as far as that is known, or is None; its `history` is what `train`
    has seen, or None.

    Raises `ValueError` for shapes that do not go together. Weights are frozen: train with `Transcoder.train`.

    >>> tc = lk.Transcoder.load("path/to/a/published/one")          # doctest: +SKIP
    >>> codes = tc.encode(model.run(text, keep=tc.reads)[tc.reads])  # doctest: +SKIP
    >>> codes.at(0, -1)                                              # the features of the last token  # doctest: +SKIP
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    W_skip: Tensor | None
    centre: Tensor | None

    def __init__(
        self,
        W_enc: Tensor,
        b_enc: Tensor | None,
        W_dec: Tensor,
        b_dec: Tensor | None,
        activation: Activation,
        *,
        reads: SiteLike,
        writes: SiteLike | Iterable[SiteLike],
        W_skip: Tensor | None = None,
        centre: Tensor | None = None,
        normalise: Normalisation = "none",
        restores: bool = True,
        centred_output: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.reads = _with_layer(reads)
        self.writes = as_sites(writes)
        self.activation, self.normalise, self.restores = activation, normalise, restores
        self.centred_output = centred_output
        self.identity: Identity | None = None
        self.history: History | None = None
        self.about: dict[str, Any] = dict(about or {})
        W_dec = W_dec[None] if W_dec.dim() == 2 else W_dec
        if b_enc is None:
            b_enc = W_enc.new_zeros(len(W_enc))
        b_dec = W_dec.new_zeros(W_dec.shape[0], W_dec.shape[2]) if b_dec is None else b_dec.reshape(W_dec.shape[0], -1)
        if W_skip is not None and W_skip.dim() == 2:
            W_skip = W_skip[None]
        centre = None if centre is None else centre.clone()  # often b_dec is given for both
        fields = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip, "centre": centre}
        for name, tensor in fields.items():
            held = None if tensor is None else nn.Parameter(tensor.detach().contiguous(), requires_grad=False)
            self.register_parameter(name, held)
        for name, tensor in activation_tensors(activation).items():
            self.register_buffer(f"activation_{name}", tensor, persistent=False)
        self._check()

    # What it is

    @property
    def n_features(self) -> int:
        """How many features it has."""
        return self.W_enc.shape[0]

    @property
    def d_in(self) -> int:
        """The width of what it reads."""
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        """The width of what it writes."""
        return self.W_dec.shape[2]

    @property
    def is_sae(self) -> bool:
        """Whether it reads and writes one and the same site."""
        return self.writes == (self.reads,)

    # Where it comes from, and where it is kept

    train: OfTheClass[Transcoder] = OfTheClass(trained)  # pyright: ignore -- asked of a module it is torch's
    train_all = staticmethod(trained_all)

    @classmethod
    def load(
        cls,
        where: str | Path,
        model: Model | None = None,
        *,
        reads: SiteLike | None = None,
        writes: SiteLike | Iterable[SiteLike] | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> Transcoder:
        """Read a dictionary: one that `save` wrote, or any published one, which is told by what is in its files.

        Args:
            where: its folder or file; or its place on the Hugging Face hub, `"org/repo/folder"`; or `"demo/20"`, which
                comes with lenskit for that layer of the demo model (19 to 24).
            model: the model it is for: it is refused where it was made for another.
            reads, writes: its sites, where its files do not say or one knows better. Of a cross-layer one, the sites
                that are to be loaded: the others are never read.
            dtype: of the weights in memory.
            revision: of the repository on the hub; the cache alone is asked where the hub is switched off.

        What is read are JSON, YAML, safetensors, arrays of numbers, and of pickles the plain data in them: never code.
        Raises `LoadError` where there is no dictionary or it cannot be represented, with the reason; `ModelMismatch`
        where it is another model's. Formats: see `lenskit.transcoders.formats`.

        >>> lk.Transcoder.load("google/gemma-scope-2b-pt-transcoders/layer_8/width_16k/average_l0_52")  # doctest: +SKIP
        """
        from lenskit.transcoders import files

        return files.load(where, model, reads=reads, writes=writes, dtype=dtype, revision=revision)

    @classmethod
    def load_all(
        cls,
        where: str | Path,
        model: Model | None = None,
        *,
        layers: Iterable[int] | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> list[Transcoder]:
        """All dictionaries of a folder and the folders in it, in the order of what they read; or those of some layers.

        `load_all("demo")` are those that come with lenskit for the demo model. Raises what `load` raises.
        """
        from lenskit.transcoders import files

        return files.load_all(where, model, layers=layers, dtype=dtype, revision=revision)

    @classmethod
    def inspect(cls, where: str | Path) -> Header:
        """What the file of a saved dictionary says of it, without reading its weights. Raises `LoadError`."""
        from lenskit.transcoders import files

        return files.inspect(where)

    def save(self, path: str | Path, model: Model | None = None, *, dtype: torch.dtype | None = None) -> Path:
        """Write it as one safetensors file, `.safetensors`, with all that it is in the header; returns where.

        Args:
            path: where.
            model: the model it belongs to, whose identity is saved with it, where `identity` does not say so already.
            dtype: how numbers are written: as they are, as other floats, or as `torch.int8`: each row of a matrix in
                127 steps to either side of 0, a quarter of float32's size. Read again, they are floats.

        >>> tc.save("layer8.safetensors")  # doctest: +SKIP
        """
        from lenskit.transcoders import files

        return files.save(self, path, model, dtype=dtype)

    # What it does

    def encode(self, x: Tensor) -> Codes:
        """The features that are active in `x` (..., d_in), as sparse codes: memory for one block of tokens at a time.

        Raises `ValueError` where `x` has another width.
        """
        return self._encode(self.normalised(self.checked(x)).x)

    def decode(self, codes: Codes, write: int = 0) -> Tensor:
        """(..., d_out): what the active features write, and the bias: without skip, and normalised as they are.

        write: which of the sites it writes, for one that writes several.
        """
        summed = functional.embedding_bag(
            codes.features,
            self.W_dec[write],
            codes.offsets,
            mode="sum",
            per_sample_weights=codes.values.to(self.W_dec.dtype),
            include_last_offset=True,
        )
        return (summed + self.b_dec[write]).view(*codes.shape, self.d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_out): what it writes for what it reads, or (write, ..., d_out) where it writes several sites."""
        if len(self.writes) == 1:
            return self.written(x, 0)
        return torch.stack([self.written(x, write) for write in range(len(self.writes))])

    def written(self, x: Tensor, write: int) -> Tensor:
        """(..., d_out): what it writes to one of its sites."""
        flat = self.checked(x)
        given = self.normalised(flat)
        out = self.finished(self.decode(self._encode(given.x), write), given, write).to(x.dtype)
        return out.view(x.shape) if flat is not x and self.writes[write] == self.reads else out

    def _encode(self, x: Tensor) -> Codes:
        picked = [self._picked(block) for block in self._products(x)]
        counts = torch.cat([each.counts for each in picked]) if picked else x.new_zeros(0, dtype=torch.int64)
        offsets = functional.pad(counts.cumsum(0), (1, 0))
        return Codes(
            torch.cat([each.features for each in picked]) if picked else counts,
            torch.cat([each.values for each in picked]) if picked else x.new_zeros(0),
            offsets,
            tuple(x.shape[:-1]),
            self.n_features,
        )

    def _products(self, x: Tensor) -> Iterator[Tensor]:
        """(token, feature): pre-activations, block by block; without gradients each is written over the one before."""
        flat = x.reshape(-1, self.d_in)
        if self.centre is not None:
            flat = flat - self.centre
        size = max(1, min(_BLOCK, _MOST // self.n_features))
        recorded = torch.is_grad_enabled() and (flat.requires_grad or self.W_enc.requires_grad)
        spare = None if recorded else flat.new_empty(min(size, len(flat)), self.n_features)
        weight = self.W_enc.T
        for block in flat.split(size) if len(flat) else ():
            if spare is None:
                yield torch.addmm(self.b_enc, block, weight)
            else:
                yield torch.addmm(self.b_enc, block, weight, out=spare[: len(block)])

    def _picked(self, pre: Tensor) -> Picked:
        return self._activation.picked(pre)

    @property
    def _activation(self) -> Activation:
        """The activation with its tensors where the weights are."""
        tensors = {name: getattr(self, f"activation_{name}") for name in activation_tensors(self.activation)}
        return type(self.activation)(**tensors) if tensors else self.activation

    # Normalisation

    def normalised(self, x: Tensor) -> Given:
        """What is read, (..., d_in), as the encoder meets it but for `centre`, and what undoes that."""
        x = x.to(self.W_enc.dtype)
        if self.normalise == "none":
            return Given(x, None, None)
        if self.normalise == "norm":
            scale = x.norm(dim=-1, keepdim=True).clamp_min(1e-8) / self.d_in**0.5
            return Given(x / scale, scale, None)
        # As SAELens does it: it divides by a little more than what it multiplies with at the end.
        mean, scale = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return Given((x - mean) / (scale + 1e-5), scale, mean)

    def finished(self, out: Tensor, given: Given, write: int) -> Tensor:
        """What the features write, with what goes past them, and on the scale of what is written."""
        if self.W_skip is not None:
            out = out + given.x @ self.W_skip[write].T
        if not self.restores:
            return out
        if given.scale is not None:
            out = out * given.scale
        return out if given.mean is None else out + given.mean

    # Checks

    def read_directions(self, which: slice = slice(None)) -> Tensor:
        """(feature, d_in): what each feature reads of what enters, but for what a normalisation divides by."""
        rows = self.W_enc[which].to(torch.promote_types(self.W_enc.dtype, torch.float32))
        return rows - rows.mean(-1, keepdim=True) if self.normalise == "layer norm" else rows

    def checked(self, x: Tensor) -> Tensor:
        """`x` (..., d_in), with its heads side by side where it was given with them. Raises `ValueError`."""
        headed = self.reads.name in HEADED and self.reads.head is None
        if headed and x.dim() > 1 and x.shape[-1] != self.d_in and x.shape[-2] * x.shape[-1] == self.d_in:
            return x.flatten(-2)
        if x.shape[-1:] != (self.d_in,):
            raise ValueError(f"this dictionary reads {self.reads}, (..., {self.d_in}), and was given {tuple(x.shape)}.")
        return x

    def _check(self) -> None:
        if self.W_enc.dim() != 2 or self.W_dec.dim() != 3:
            shapes = f"W_enc {tuple(self.W_enc.shape)}, W_dec {tuple(self.W_dec.shape)}"
            raise ValueError(f"W_enc is (feature, d_in) and W_dec (write, feature, d_out); these are {shapes}.")
        writes, _, d_out = self.W_dec.shape
        wanted: dict[str, tuple[int, ...]] = {
            "b_enc": (self.n_features,),
            "W_dec": (len(self.writes), self.n_features, d_out),
            "b_dec": (writes, d_out),
            "W_skip": (writes, d_out, self.d_in),
            "centre": (self.d_in,),
        } | {f"activation_{name}": (self.n_features,) for name in activation_tensors(self.activation)}
        for name, shape in wanted.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} is {tuple(tensor.shape)} and should be {shape}: {self.n_features} features, "
                    f"d_in {self.d_in}, d_out {d_out}, {len(self.writes)} sites to write."
                )
        if self.normalise not in ("none", "norm", "layer norm"):
            raise ValueError(f"normalise is 'none', 'norm' or 'layer norm', not {self.normalise!r}.")
        if self.normalise == "layer norm" and self.restores and not self.is_sae and self.d_in != d_out:
            raise ValueError("the mean of what is read says nothing of what is written here: say restores=False.")

    def __repr__(self) -> str:
        kind = "SAE" if self.is_sae else "Transcoder"
        where = str(self.reads) if self.is_sae else f"{self.reads} -> {', '.join(map(str, self.writes))}"
        skip = ", skip" if self.W_skip is not None else ""
        return f"{kind}({where}, {self.n_features:,} features, {shown(self.activation)}{skip})"


class Given(NamedTuple):
    """What a dictionary was given, normalised, and what undoes that."""

    x: Tensor
    scale: Tensor | None
    mean: Tensor | None


def activation_tensors(activation: Activation) -> dict[str, Tensor]:
    """The tensors that an activation holds, by name."""
    if isinstance(activation, JumpReLU):
        return {"threshold": activation.threshold}
    if isinstance(activation, Gated):
        names = ("gate_bias", "log_scale", "bias")
        return {name: getattr(activation, name) for name in names}
    return {}


def shown(activation: Activation) -> str:
    """An activation in a few words: `topk 32`, `relu`."""
    k = getattr(activation, "k", None)
    return activation.kind if k is None else f"{activation.kind} {k}"


def _with_layer(what: SiteLike) -> Site:
    site = Site.parse(what)
    if site.layer is None and not site.is_path:
        raise ValueError(f"a dictionary reads and writes in one layer: say which, such as ({site.name!r}, 8).")
    return site


def as_sites(sites: SiteLike | Iterable[SiteLike]) -> tuple[Site, ...]:
    """One site or several, each with its layer. Raises ValueError for one without."""
    return tuple(_with_layer(site) for site in sites_of(sites))
