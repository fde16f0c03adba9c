"""De-embeddings: to which words, by their bare embeddings, each feature answers: directly, and through a head.

Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024), section 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lenskit.models.edits import Set
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.heads import through_heads
from lenskit.models.weighing.norms import Norm
from lenskit.transcoders.index.bases import Basis, Neurons, reads
from lenskit.transcoders.index.effects import Lists, blocks_of, blocks_of_tokens
from lenskit.transcoders.transcoder import Transcoder

_INSIDE_MLP = ("mlp_pre", "mlp_post")
_NORMED = {"attn_in": "attn_in", "mlp_in": "mlp_in"} | dict.fromkeys(_INSIDE_MLP, "mlp_in")
_STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
HEADS = 8
"""How many heads are kept of each feature."""


@torch.no_grad()
def de_embeddings(model: Model, basis: Basis, progress: Callable[[float], object]) -> Lists:
    """The tokens that excite each feature most if a token's embedding is all there is in the residual stream.

    The embedding goes through the norm before the site, as the model would do it. Of a dictionary the number is its
    pre-activation, so that features do not keep each other down; of a neuron, what the MLP itself makes of it.

    Raises `SiteUnavailable` for a site that is not read from the residual stream directly.
    """
    site = reads(basis)
    seen = _reader(model, basis)
    vocab = model.weights.W_E.shape[0]
    lists: Lists | None = None
    for ids in blocks_of_tokens(vocab):
        scores = seen(entering(model, site, model.weights.W_E[ids].float()))
        for features in blocks_of(len(scores)):
            if lists is None:
                lists = Lists(len(scores), vocab)
            lists.offer(features, int(ids[0]), scores[features])
        progress(float(ids[-1] + 1) / vocab)
    assert lists is not None
    return lists


def entering(model: Model, site: Site, resid: Tensor) -> Tensor:
    """What a site reads where the residual stream is `resid` (..., d_model)."""
    norm = norm_before(model, site)
    made = norm.normalise(resid)
    made = made if norm.gain is None else made * norm.gain.to(made)
    return made if norm.bias is None else made + norm.bias.to(made)


def norm_before(model: Model, site: Site) -> Norm:
    """The norm between the residual stream and a site; of the stream itself one that does nothing."""
    if site.name in _STREAM:
        return Norm()
    if site.name not in _NORMED or site.layer is None:
        raise SiteUnavailable(
            f"{site} is not read from the residual stream directly: a word's embedding alone says nothing of it. "
            f"De-embeddings exist for {', '.join((*_STREAM, *_NORMED))}."
        )
    return model.weights.norm("attn_in" if site.name == "attn_in" else "mlp_in", site.layer)


def _reader(model: Model, basis: Basis) -> Callable[[Tensor], Tensor]:
    """What gives, of what enters (token, d), each feature's number (feature, token)."""
    if isinstance(basis, Transcoder):
        if basis.reads.name in _INSIDE_MLP:
            inside = _inside(model, basis.reads)
            return lambda x: _pre_activations(basis, inside(x))
        return lambda x: _pre_activations(basis, x)
    sign = -1.0 if basis.negative else 1.0
    if basis.site.name in _INSIDE_MLP:
        inside = _inside(model, basis.site)
        return lambda x: inside(x).T * sign
    return lambda x: x.T * sign


def _pre_activations(transcoder: Transcoder, x: Tensor) -> Tensor:
    x = transcoder.normalised(x.to(transcoder.W_enc.device)).x
    x = x if transcoder.centre is None else x - transcoder.centre
    return torch.addmm(transcoder.b_enc[:, None], transcoder.W_enc, x.T)


def _inside(model: Model, site: Site) -> Callable[[Tensor], Tensor]:
    """What stands inside an MLP when `x` (token, d_model) enters it: by the model's own code, that block alone."""
    assert site.layer is not None
    layer = site.layer

    def run(x: Tensor) -> Tensor:
        ids = torch.zeros(len(x), 1, dtype=torch.long)
        put = Set("mlp_in", x[:, None].to(model.device, model.dtype), layers=layer)
        return model.run(ids, keep=site, edits=put, stop_at=site, start_at=layer, resid=torch.zeros_like(x)[:, None])[
            site
        ][:, 0].float()

    return run


# Through heads


@torch.no_grad()
def read_directions(model: Model, basis: Basis) -> Tensor:
    """(feature, d_model): the direction of the residual stream that each feature reads, the norm's gain inside.

    Before a LayerNorm it has mean 0, since the mean of the stream is taken off.
    Of a gated MLP's neurons it is that of their gate. Raises `SiteUnavailable` as `de_embeddings` does.
    """
    site = reads(basis)
    norm = norm_before(model, site)
    if isinstance(basis, Transcoder) and site.name not in _INSIDE_MLP:
        rows = basis.read_directions().cpu()
    elif isinstance(basis, Neurons):
        assert site.layer is not None or site.name == "embed"
        rows = _columns(model, site) if site.name in _INSIDE_MLP else torch.eye(model.weights.W_E.shape[1])
        rows = -rows if basis.negative else rows
    else:
        raise SiteUnavailable(f"a dictionary of {site} reads neurons, and no directions of the residual stream.")
    return norm.back(rows)


def _columns(model: Model, site: Site) -> Tensor:
    layer = site.layer
    assert layer is not None
    try:
        return model.weights.W_gate[layer].float().cpu().T
    except SiteUnavailable:
        return model.weights.W_in[layer].float().cpu().T


def heads_before(model: Model, site: Site) -> list[int]:
    """The layers whose attention writes what a site reads."""
    serial = site.layer in model.anatomy.layers_of("resid_mid")  # else attention and MLP run in parallel
    same = site.name in ("resid_mid", "resid_post") or (serial and site.name in ("mlp_in", *_INSIDE_MLP))
    return [] if site.layer is None else list(range(site.layer + same))


@torch.no_grad()
def best_heads(model: Model, basis: Basis) -> tuple[Tensor, Tensor]:
    """The heads through which each feature listens most: (feature, n, 2) layer and head, and norms (feature, n).

    The norm is that of the feature's direction taken back through the head's OV to what the head reads of a token.
    """
    rows, layers = read_directions(model, basis), heads_before(model, reads(basis))
    if not layers:
        return torch.zeros(len(rows), 0, 2, dtype=torch.int64), torch.zeros(len(rows), 0)
    norms, names = list[Tensor](), list[tuple[int, int]]()
    for layer in layers:
        heads = through_heads(model, layer)
        for head, (W_V, W_O) in enumerate(zip(heads.A.cpu(), heads.B.cpu(), strict=True)):
            at_value = rows @ W_O.T  # (feature, d_head)
            norms.append(((at_value @ (W_V.T @ W_V)) * at_value).sum(1).clamp_min(0).sqrt())
            names.append((layer, head))
    values, places = torch.stack(norms, 1).topk(min(HEADS, len(names)), 1)
    return torch.tensor(names)[places], values


@torch.no_grad()
def de_embedding_through(model: Model, basis: Basis, feature: int, layer: int, head: int) -> Tensor:
    """(vocab,): how much of a feature's direction a head writes if it looks at a token that is its embedding alone."""
    rows, layers = read_directions(model, basis), heads_before(model, reads(basis))
    if layer not in layers:
        raise ValueError(f"attention of layer {layer} writes nothing that {reads(basis)} reads: layers are {layers}.")
    heads = through_heads(model, layer)
    if not 0 <= head < len(heads.A):
        raise ValueError(f"head {head} of layer {layer} does not exist: there are heads 0 to {len(heads.A) - 1}.")
    back = heads.A[head].cpu() @ (heads.B[head].cpu() @ rows[feature])
    norm = model.weights.norm("attn_in", layer)
    parts = [
        norm.normalise(model.weights.W_E[ids].float()).cpu() @ back for ids in blocks_of_tokens(len(model.weights.W_E))
    ]
    return torch.cat(parts)


def best_through(
    model: Model, basis: Basis, feature: int, layer: int, head: int, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The n tokens of which a head writes most in a feature's direction, (n,), and how much."""
    scores = de_embedding_through(model, basis, feature, layer, head).numpy()
    best = np.argsort(-scores, kind="stable")[:n]
    return best, scores[best]
