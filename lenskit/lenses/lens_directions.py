"""Lens directions: the vector of a layer's residual stream along which a lens reads a token, `J' W_U[token]`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.directions import directions
from lenskit.models.directions_by_layer import Concept, DirectionsByLayer, DirectionScale
from lenskit.models.files.demo_texts import demo_texts
from lenskit.models.running.which import Which, indices
from lenskit.models.show import show
from lenskit.models.sites import Site

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.models.model import Model

SCALES = ("raw", "unit", "mean", "median")
_BLOCK = 8192
_PASSAGES, _LENGTH = 8, 64


def lens_directions(
    lens: Lens,
    concepts: Sequence[Concept],
    layers: Which = None,
    *,
    scale: DirectionScale = "raw",
    folded: bool = True,
    centred: bool = True,
    texts: Texts | None = None,
) -> DirectionsByLayer:
    """The directions along which a lens reads some words, by layer: `v = J' W_U[word]`, J being what the lens does.

    J is taken from the lens's own `transport`, so that it is the identity for the logit lens and `I + A` for a tuned
    one. Folded, `v @ h` differs from the word's logit in the lens only by what the final norm divides by, and by a
    constant.

    Args:
        lens: any lens whose `transport` is affine.
        concepts: tokens, or lists of tokens, of whose directions the mean is taken.
        layers: whose `resid_post` it is; by default all that the lens reads.
        scale: "raw", as they are; "unit", of length one; "mean" or "median", as long as the layer's states are.
        folded: multiply by the final norm's gain (of which Gemma's is one more than its weight: it is measured, not
            looked up), and take off the mean where the norm does. Without, the direction is that of the bare head.
        centred: take off the mean over the vocabulary, a shift that the softmax does not see.
        texts: on which the length of states is measured; by default some passages that come with lenskit.

    Memory: d_model numbers for each concept and layer. Raises `ValueError` for a word that is not one token and for a
    layer that the lens does not read, `TypeError` for a lens that is not affine and a head that is no plain matrix,
    `SiteUnavailable` where the final norm cannot be taken apart. Source: Gurnee et al., "Verbalizable Representations
    Form a Global Workspace in Language Models" (2026); folding and centring as in the tools of JLENS's users.

    >>> lens_directions(lk.LogitLens(model), [" Paris", [" New", " York"]], layers=12)[12].shape  # doctest: +SKIP
    torch.Size([2, 576])
    """
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(map(repr, SCALES))}, not {scale!r}.")
    if isinstance(concepts, str | int):
        raise TypeError(f"concepts are a list, such as [{concepts!r}].")
    model = lens.model
    ids = [_ids(model, concept) for concept in concepts]
    if not ids:
        raise ValueError("no word is given: name at least one, as [' Paris'].")
    rows = readout_rows(model, [i for each in ids for i in each], folded=folded, centred=centred)
    means = torch.stack([part.mean(0) for part in rows.split([len(each) for each in ids])])
    chosen = layers_of(lens, layers)
    made = {layer: pulled_back(lens, means, Site("resid_post", layer)) for layer in chosen}
    if scale != "raw":
        sizes = dict.fromkeys(chosen, 1.0)
        if scale != "unit":
            sizes = state_norms(model, chosen, texts)[scale]
        made = {layer: v / v.norm(dim=-1, keepdim=True) * sizes[layer] for layer, v in made.items()}
    names = ["+".join(p if isinstance(p, str) else show(p) for p in model.text.pieces(each)) for each in ids]
    return DirectionsByLayer(made, tuple(names), tuple(map(tuple, ids)), f"{lens.name} lens", scale, folded, centred)


def readout_rows(model: Model, tokens: Iterable[int], *, folded: bool, centred: bool) -> Tensor:
    """(token, d_model) what the final residual is multiplied with for some tokens' logits, in float32 at least.

    Folded, they hold what the final norm multiplies with; centred, they are less the mean over the vocabulary.
    """
    rows = directions(model, tokens)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    rows = rows - mean_row(unembedding(model)).to(rows) if centred else rows
    return folded_rows(model, rows) if folded else rows


def folded_rows(model: Model, rows: Tensor) -> Tensor:
    """Rows (n, d_model) that multiply what the final norm gives, as rows that multiply what it normalises.

    The gain is the norm's own, as measured (Gemma's is one more than its weight). A norm that takes off a state's mean
    sees no mean of a row either. Raises `SiteUnavailable` where the norm cannot be taken apart.
    """
    norm = model.weights.norm("final_norm")
    rows = rows if norm.gain is None else rows * norm.gain.to(rows)
    return rows - rows.mean(-1, keepdim=True) if norm.centres else rows


def mean_row(head: Tensor) -> Tensor:
    """(d_model,) the mean over the vocabulary of an unembedding (vocab, d_model), in float64."""
    total = torch.zeros(head.shape[1], dtype=torch.float64, device=head.device)
    for start in range(0, len(head), _BLOCK):
        block = head[start : start + _BLOCK]
        block = block.to(torch.promote_types(block.dtype, torch.float32))
        total += (block.new_ones(len(block)) @ block).double()  # ten times as fast as a sum over the first axis
    return total / len(head)


def unembedding(model: Model) -> Tensor:
    """The head's matrix (vocab, d_model), the model's own; refused, as `directions` does, where it cannot be read."""
    directions(model, [0])
    head = model.anatomy.tail.head
    assert isinstance(head, nn.Linear)
    return head.weight.detach()


def pulled_back(lens: Lens, rows: Tensor, site: Site) -> Tensor:
    """(n, d_model) of a layer, of rows (n, d_model) of the final residual: what a state is multiplied with instead.

    Raises `TypeError` where the lens is not affine, so that it has no one direction for a token.
    """
    # With one row more, at another state: an affine map pulls it back to the same.
    noise = torch.randn(1, rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows)
    with torch.inference_mode(False), torch.enable_grad():
        state = torch.cat([torch.zeros_like(rows), noise]).requires_grad_()
        final = lens.transport(state, site)
        if final.shape != state.shape:
            raise ValueError(f"{lens!r} carries {tuple(state.shape)} to {tuple(final.shape)}: no direction is read.")
        weights = torch.cat([rows, rows[:1]]).clone().to(final)
        (found,) = torch.autograd.grad((final * weights).sum(), state)
    if not torch.allclose(found[0], found[-1], rtol=1e-4, atol=float(found[0].abs().max()) * 1e-4):
        raise TypeError(f"{lens!r} is not affine, so that a token has another direction at every state.")
    return found[:-1].detach()


def layers_of(lens: Lens, layers: Which) -> list[int]:
    """The layers that are meant; of a lens that reads some only, by default those. Raises for one that is not there."""
    if layers is None and (read := getattr(lens, "layers", None)) is not None:
        return sorted(read)
    try:
        return sorted(indices(layers, lens.model.n_layers, "layer"))
    except IndexError as error:
        raise ValueError(f"{error} Name layers of {lens.model.name}.") from None


def state_norms(model: Model, layers: Sequence[int], texts: Texts | None = None) -> dict[str, dict[int, float]]:
    """How long states are in some layers: their "mean" and "median" norm by layer, first positions left out.

    texts: what `chunks_of` reads, 8 passages of 64 tokens of it; by default passages that come with lenskit.
    """
    if texts is None and model.text.tokenizer is None:
        raise TypeError("how long states are is measured on a text, and this model reads none: give ids as texts=.")
    chunks = chunks_of(model, demo_texts() if texts is None else texts, _LENGTH, _PASSAGES * _LENGTH)
    found = {layer: list[Tensor]() for layer in layers}
    sites = [Site("resid_post", layer) for layer in layers]
    for ids in chunks.ids:
        run = model.run(ids[None], keep=sites, stop_at=Site("resid_post", max(layers)))
        for layer in layers:
            found[layer].append(run["resid_post", layer][0, 1:].float().norm(dim=-1))
    norms = {layer: torch.cat(parts) for layer, parts in found.items()}
    return {
        "mean": {layer: float(each.mean()) for layer, each in norms.items()},
        "median": {layer: float(each.median()) for layer, each in norms.items()},
    }


def _ids(model: Model, concept: Concept) -> list[int]:
    return [model.text.token(concept)] if isinstance(concept, str | int) else model.text.tokens(concept)
