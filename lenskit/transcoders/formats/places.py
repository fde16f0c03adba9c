"""Places: the sites that published dictionaries name, in TransformerLens's words or as paths of modules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lenskit.models.files.load_error import LoadError
from lenskit.models.finding.spots import Spot
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteUnavailable

# TransformerLens's names beyond those that `Site.parse` knows. Its hook_mlp_in and hook_attn_in stand before the norm;
# mlp.hook_out is what it calls mlp_out where no norm follows the MLP: the dictionaries that name it are of such models.
_MORE = {
    "hook_mlp_in": "resid_mid",
    "hook_attn_in": "resid_pre",
    "mlp.hook_out": "mlp_out",
}
# These stand between a norm's normalisation and its gain and bias, where no module of Hugging Face's gives anything.
BARE = re.compile(r"blocks\.(\d{1,6})\.ln([12])\.hook_normalized")
# The paths of a Gemma's modules that the files of GemmaScope 2 name.
_GEMMA = {
    "output": "resid_post",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
    "self_attn.o_proj.input": "z",
}
_PLAIN = ("resid_pre", "attn_in", "attn_out", "resid_mid", "mlp_in", "mlp_post", "mlp_out", "resid_post")


def site_of(name: object, where: object, head: object = None) -> Site:
    """The site of one of TransformerLens's names, or a module's path.

    Raises `LoadError` where it has no counterpart here, or says no name.
    """
    if not isinstance(name, str) or not name:
        raise LoadError(f"{where} does not say which site it reads: say it, with reads= and writes=.")
    if BARE.fullmatch(name) and head is None:
        return Site(name)
    if found := re.fullmatch(r"blocks\.(\d{1,6})\.(.+)", name):
        layer, rest = int(found[1]), found[2]
        site = Site(_MORE[rest], layer) if rest in _MORE else Site.parse(name)
        if site.is_path:
            raise LoadError(f"{where} is of {name!r}, which has no counterpart here: say reads= and writes=.")
    elif found := re.fullmatch(r"(?:model\.)?(?:language_model\.)?layers\.(\d{1,6})\.(.+)", name):
        known = _GEMMA.get(found[2])
        site = Site(known, int(found[1])) if known else Site(name.removesuffix(".output"))
    else:
        site = Site.parse(name)
    if site.layer is None and not site.is_path:
        raise LoadError(f"{where} is of {name!r}, which is in no layer: say reads= and writes=.")
    if head is None:
        return site
    if not isinstance(head, int) or site.name not in ("q", "k", "v", "z"):
        raise LoadError(f"{where} is of head {head!r} of {site}, which is no site: say reads= and writes=.")
    return Site(site.name, site.layer, head)


def in_model(site: Site, model: Model | None) -> Site:
    """A module's path as the model calls it, or the site that this is there; a site as it is.

    Published paths often lack their beginning: `layers.5.mlp` is `model.layers.5.mlp` of the whole model.
    """
    if model is None or not site.is_path or BARE.fullmatch(site.name):
        return site
    inner = getattr(model.hf_model, "base_model_prefix", "")
    for path in (site.name, f"{inner}.{site.name}"):
        try:
            spot = model.anatomy.spot(Site(path))
        except SiteUnavailable:
            continue
        return next((named for named, other in _spots(model) if other.point == spot.point), Site(path))
    raise LoadError(f"{site} is no module of {model.name}: say which site is meant, with reads= and writes=.")


def _spots(model: Model) -> Iterator[tuple[Site, Spot]]:
    for layer in range(model.n_layers):
        for name in _PLAIN:
            spot = model.anatomy.layers[layer].spots.get(name)
            if spot is not None and spot.factor == 1.0 and spot.shift is None and not spot.flat:
                yield Site(name, layer), spot
