"""Bases: what an index is of: the features of a dictionary, or plainly the numbers at a site, such as its neurons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenskit.models.files.load_error import LoadError
from lenskit.models.model import Model
from lenskit.models.sites import HEADED, Site, SiteLike, SiteUnavailable
from lenskit.transcoders.transcoder import Transcoder, as_sites

STRONG = 32
"""How many neurons of a token count as active where neurons are compared by when they are."""

_RESIDUAL = ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Neurons:
    """The numbers at a site, each by itself, as a basis: `mlp_post` has a layer's neurons.

    Those of a gated MLP go below 0 as well as above. A neuron counts as active where it is above 0; with `negative`,
    where it is below, and is as active as it is below.

    >>> Neurons.at(("mlp_post", 20))
    Neurons(site=Site(name='mlp_post', layer=20, head=None), negative=False)
    """

    site: Site
    negative: bool = False

    @classmethod
    def at(cls, site: SiteLike, negative: bool = False) -> Neurons:
        """The neurons of a site with its layer. Raises `ValueError` without."""
        return cls(as_sites(site)[0], negative)

    def direction(self, model: Model, neuron: int) -> Tensor:
        """(d_model,): what the neuron adds to the residual stream where it is active by 1; for `lk.Add`.

        Raises `SiteUnavailable` where it adds nothing directly.
        """
        return written_by(model, self)[neuron]

    def __str__(self) -> str:
        return f"neurons of {self.site}{', where negative' if self.negative else ''}"


Basis = Transcoder | Neurons


def as_basis(basis: Basis | SiteLike | Path, model: Model) -> tuple[Basis, str | None]:
    """The basis that is meant, and the place it can be loaded from again, if it was given by its place.

    A text is a site where it names one of lenskit's, such as "mlp_post.20", and else the place of a dictionary.
    """
    if isinstance(basis, Transcoder | Neurons):
        if isinstance(basis, Transcoder) and basis.identity is not None:
            basis.identity.check(model, f"{basis}", "train one for this model with Transcoder.train")
        return basis, None
    if isinstance(basis, Path) or (isinstance(basis, str) and Site.parse(basis).is_path):
        return Transcoder.load(basis, model), str(basis)
    neurons = Neurons.at(basis)
    if neurons.site.name in ("scores", "pattern"):
        raise SiteUnavailable(f"{neurons.site} has a number for each pair of tokens: an index is of single tokens.")
    return neurons, None


def basis_again(about: Mapping[str, Any], model: Model) -> Basis:
    """The basis that an index says it is of: loaded from its place, or the neurons; see `FeatureIndex.basis`."""
    if about["kind"] == "neurons":
        return Neurons.at(about["reads"], about["negative"])
    place = about["place"]
    if place is None:
        raise ValueError(
            f"this index was built from a dictionary in memory, {about['name']}, and does not know where it is kept: "
            "give it as basis=, or build the index from the place of its file."
        )
    found = Transcoder.load(place, model)
    if fingerprint(found) != about["fingerprint"]:
        raise LoadError(f"the dictionary at {place} is another than this index was built from.")
    return found


def fingerprint(basis: Basis) -> str:
    """What tells a basis from every other: SHA-256 of its numbers and of how they are used."""
    digest = hashlib.sha256(repr(basis).encode())
    if isinstance(basis, Transcoder):
        digest.update(repr((basis.normalise, basis.writes, basis.centred_output)).encode())
        for name, tensor in sorted(basis.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def reads(basis: Basis) -> Site:
    """The site that it looks at."""
    return basis.reads if isinstance(basis, Transcoder) else basis.site


def writes(basis: Basis) -> tuple[Site, ...]:
    """The sites at which its features act; those of neurons act where they are."""
    return basis.writes if isinstance(basis, Transcoder) else (basis.site,)


class Active(NamedTuple):
    """What is active at some tokens, token by token.

    Attributes:
        tokens, features, values: (active,) where, what, and how much: above 0.
        strong: (active,) whether it counts where features are compared by when they are active. Of a dictionary all do.
            Neurons are above 0 half of the time, which says nothing: of them the 32 strongest of each token count.
    """

    tokens: Tensor
    features: Tensor
    values: Tensor
    strong: Tensor


def active(basis: Basis, x: Tensor) -> Active:
    """The features above 0 in `x` (token, ...)."""
    x = x.flatten(1)
    if isinstance(basis, Neurons):
        x = -x if basis.negative else x
        tokens, features = (x > 0).nonzero(as_tuple=True)
        values = x[tokens, features]
        least = x.topk(min(STRONG, x.shape[1])).values[:, -1]
        return Active(tokens, features, values, values >= least[tokens])
    codes = basis.encode(x.to(basis.W_enc.device))
    above = codes.values > 0  # a JumpReLU threshold below 0 lets negative ones through
    if bool(above.all()):
        return Active(codes.tokens, codes.features, codes.values, above)
    return Active(codes.tokens[above], codes.features[above], codes.values[above], above[above])


# What it writes to the residual stream


def written_by(model: Model, basis: Basis) -> Tensor:
    """(feature, d_model): what each feature adds to the residual stream where it is active by 1.

    Of `mlp_post` and `z` that goes through the model's own output projection. Where a norm stands behind that (Gemma's)
    its gain is in it, and its scale, which depends on the text, is not. What a dictionary of several sites writes is
    summed. Raises `SiteUnavailable` where a site does not write the residual stream directly.
    """
    if isinstance(basis, Transcoder):
        parts = [_through(model, site, basis.W_dec[w].float()) for w, site in enumerate(basis.writes)]
        return torch.stack(parts).sum(0)
    width = width_of(model, basis.site)
    sign = -1.0 if basis.negative else 1.0
    return _through(model, basis.site, torch.eye(width) * sign)


def width_of(model: Model, site: Site) -> int:
    """How many numbers a site has at each token, heads side by side."""
    ids = torch.zeros(1, 1, dtype=torch.long)
    return model.run(ids, keep=site, stop_at=site)[site][0, 0].numel()


def _through(model: Model, site: Site, rows: Tensor) -> Tensor:
    if site.name in _RESIDUAL:
        return rows
    if site.name not in ("mlp_post", "z") or site.layer is None:
        raise SiteUnavailable(
            f"what stands at {site} is not added to the residual stream, nor through one matrix: it has no effect on "
            f"the logits that could be read off. The sites {', '.join(_RESIDUAL)}, mlp_post and z have."
        )
    name = "W_out" if site.name == "mlp_post" else "W_O"
    weight = getattr(model.weights, name)[site.layer].float().cpu()
    if site.name in HEADED:
        weight = weight[site.head] if site.head is not None else weight.flatten(0, 1)
    made = rows.cpu() @ weight
    norm = model.weights.found.parts.writer(name, site.layer).post_norm
    return made if norm is None or norm.gain is None else made * norm.gain.cpu()
