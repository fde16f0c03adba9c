"""The residual stream by weights alone: what features and heads write to it, and what of it features and heads read.

What depends on a text is left out: by how much norms divide, and how much a head looks at which token. A norm's gain
does not depend on it, nor that a LayerNorm takes off the mean: both are in what reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from lenskit.models.identity import d_model_of
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.factored import FactoredMatrix
from lenskit.models.weighing.heads import through_heads
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.index.bases import as_basis, written_by
from lenskit.transcoders.index.embeddings import norm_before
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model

Head = tuple[int, int]
"""Layer and head."""

Rows = Callable[[slice], Tensor]
"""Some rows of a matrix, (row, d), made when they are asked for."""

# In the order of a forward.
_SERIAL = ("resid_pre", "attn_in", "z", "attn_out", "resid_mid", "mlp_in", "mlp_post", "mlp_out", "resid_post")
_PARALLEL = ("resid_pre", "attn_in", "mlp_in", "z", "attn_out", "mlp_post", "mlp_out", "resid_post")
_ADDED = ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def comes_before(model: Model, written: Site, read: Site) -> bool:
    """Whether what is written at one site can be read at another through the residual stream, with nothing between."""
    return _place(model, written) < _place(model, read)


def read_by(model: Model, transcoder: Transcoder) -> Rows:
    """(feature, d_model): the direction of the residual stream that each feature reads.

    A unit of it in the stream raises the feature's pre-activation by its length, divided by what the norm divides by.
    Raises `SiteUnavailable` for a dictionary that does not read the residual stream, at most through a norm;
    `ModelMismatch` or `ValueError` for one of another model.
    """
    as_basis(transcoder, model)  # raises for another model's
    site = transcoder.reads
    model.anatomy.spot(site)
    if site.name.startswith("mlp_p"):
        raise SiteUnavailable(f"{transcoder!r} reads neurons, and no directions of the residual stream.")
    norm = norm_before(model, site)
    _check_width(model, transcoder.d_in, transcoder)
    return lambda which: norm.back(transcoder.read_directions(which))


def written_by_features(model: Model, transcoder: Transcoder, before: Site) -> Rows:
    """(feature, d_model): what each feature adds to the residual stream where it is active by 1, before a site.

    Of several sites that a dictionary writes, those that come before `before`, summed. Raises `ValueError` where none
    does, `SiteUnavailable` where one is not added to the residual stream, `ModelMismatch` or `ValueError` for a
    dictionary of another model.
    """
    as_basis(transcoder, model)
    for site in transcoder.writes:
        model.anatomy.spot(site)
    early = [w for w, site in enumerate(transcoder.writes) if comes_before(model, site, before)]
    if not early:
        raise ValueError(f"{transcoder!r} writes nothing that could be read at {before}: it is not earlier.")
    if any(transcoder.writes[w].name not in _ADDED for w in early):
        if len(transcoder.writes) > 1:
            raise SiteUnavailable(f"of what {transcoder!r} writes, not all is added to the residual stream as it is.")
        whole = written_by(model, transcoder)  # raises where it is none
        return lambda which: whole[which]
    _check_width(model, transcoder.d_out, transcoder)

    def rows(which: slice) -> Tensor:
        made = wide(transcoder.W_dec[early[0], which])
        for w in early[1:]:
            made = made + wide(transcoder.W_dec[w, which])
        return made

    return rows


def through_head(model: Model, head: Head) -> FactoredMatrix:
    """(d_model, d_model): `through_heads` of one, by its layer and number. Raises `IndexError` for one that is not."""
    layer, number = head
    heads = through_heads(model, layer)
    if not 0 <= number < heads.shape[0]:
        raise IndexError(f"head {number} of layer {layer} does not exist: there are heads 0 to {heads.shape[0] - 1}.")
    one = heads[number]
    assert isinstance(one, FactoredMatrix)
    return one


def taken_back(heads: FactoredMatrix, direction: Tensor) -> Tensor:
    """(..., d_model): the direction of what heads look at that becomes this one, (d_model,), of what they write."""
    return (heads.A.to(direction) @ (heads.B.to(direction) @ direction)[..., None])[..., 0]


def taken_on(head: FactoredMatrix, written: Tensor) -> Tensor:
    """(d_model,): what a head makes of what stands (d_model,) in the residual stream at the token it looks at."""
    return (written @ head.A.to(written)) @ head.B.to(written)


def head_reads(head: Head) -> Site:
    """Where a head reads."""
    return Site("attn_in", head[0])


def head_is_before(model: Model, head: Head, read: Site) -> bool:
    """Whether what a head writes is there when a site is read."""
    return comes_before(model, Site("attn_out", head[0]), read)


def one_row(rows: Rows, transcoder: Transcoder, feature: int) -> Tensor:
    """(d,): the row of one feature. Raises `IndexError` for one that is not there."""
    if not 0 <= feature < transcoder.n_features:
        raise IndexError(f"feature {feature} does not exist: there are features 0 to {transcoder.n_features - 1:,}.")
    return rows(slice(feature, feature + 1))[0]


def feature_name(transcoder: Transcoder, feature: int) -> str:
    """A feature as nodes of graphs name it: its dictionary's layer and its number, `"20.155"`."""
    return f"{layer_of(transcoder)}.{feature}"


def layer_of(transcoder: Transcoder) -> int:
    """The layer that a dictionary reads; where it reads no site with a layer, that which it writes."""
    layer = transcoder.reads.layer if transcoder.reads.layer is not None else transcoder.writes[0].layer
    if layer is None:
        raise SiteUnavailable(f"{transcoder!r} neither writes the residual stream nor reads it.")
    return layer


def _place(model: Model, site: Site) -> tuple[int, int]:
    if site.name in ("embed", "pos_embed"):
        return (-1, 0)
    if site.layer is None:
        raise SiteUnavailable(f"{site} is no site of the residual stream, of which it is known what comes before it.")
    names = _SERIAL if "resid_mid" in model.anatomy.layers[site.layer].spots else _PARALLEL
    if site.name not in names:
        raise SiteUnavailable(f"{site} neither writes the residual stream nor reads it: {', '.join(names)} do.")
    return (site.layer, names.index(site.name))


def _check_width(model: Model, width: int, transcoder: Transcoder) -> None:
    if width != d_model_of(model):
        raise ValueError(f"{transcoder!r} is {width} wide, and the residual stream of this model {d_model_of(model)}.")
