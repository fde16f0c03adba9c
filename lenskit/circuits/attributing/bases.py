"""Bases: of each layer of a model, what a graph is made of there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lenskit.circuits.attributing.basis import Basis
from lenskit.circuits.attributing.dictionary import Dictionary
from lenskit.circuits.attributing.neurons import Neurons
from lenskit.models.sites import Site
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model


def bases_of(model: Model, transcoders: Sequence[Transcoder], neurons: bool) -> list[Basis]:
    """The features of each layer: the dictionaries', and of the other layers the neurons, if they are asked for.

    Where neurons cannot be told apart, in a mixture of experts, a layer has none. Raises `ValueError` for two
    dictionaries of one layer; `SiteUnavailable` where there is no feature at all although neurons are asked for.
    """
    found = dict[int, Basis]()
    for each in transcoders:
        made = Dictionary(each)
        for site in (made.reads, *made.writes):
            model.anatomy.spot(site)
        if made.layer in found:
            raise ValueError(f"two dictionaries read layer {made.layer}: {each!r} is the second one.")
        found[made.layer] = made
    written = {site.layer for each in found.values() for site in each.writes}
    if neurons:
        there = set(model.anatomy.layers_of("mlp_post")) & set(model.anatomy.layers_of("mlp_in"))
        if not there and not found:
            model.anatomy.spot(Site("mlp_post", 0))  # raises with the reason
        found |= {layer: Neurons(model, layer) for layer in there - written - found.keys()}
    return [found[layer] for layer in sorted(found)]
