"""Site: the names of the places in a model that one can read and write.

The names and their meaning are TransformerLens's; the numbers are those of the Hugging Face model itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

LAYERED = {
    "resid_pre": "what enters the block",
    "attn_in": "what enters attention, after its norm",
    "q": "queries by head, after rotary embedding and norms",
    "k": "keys by key-value head, after rotary embedding and norms",
    "v": "values by key-value head",
    "scores": "scaled and masked, before the softmax (batch, head, query, key)",
    "pattern": "after the softmax (batch, head, query, key)",
    "z": "by head, what the output projection reads",
    "attn_out": "what attention adds to the residual stream",
    "resid_mid": "the residual stream between attention and MLP",
    "mlp_in": "what enters the MLP, after its norm",
    "mlp_pre": "the neurons before the nonlinearity",
    "mlp_post": "the neurons, what the down projection reads",
    "mlp_out": "what the MLP adds to the residual stream",
    "resid_post": "what leaves the block",
}
FIRST = {
    "embed": "the token embedding",
    "pos_embed": "the position embedding that is added to it",
}
LAST = {
    "final_norm": "the last residual after the final norm",
    "logits": "the model's prediction of the next token",
}
SINGLE = {**FIRST, **LAST}
NAMES = (*FIRST, *LAYERED, *LAST)
HEADED = ("q", "k", "v", "scores", "pattern", "z")
"""Sites with a head axis: (batch, pos, head, d_head), and (batch, head, query, key) for scores and pattern."""

# Not TransformerLens's hook_attn_in and hook_mlp_in, which stand before the norm; and its hook_q and hook_k stand
# before the rotary embedding, so only the model can tell whether they are our q and k (see `BEFORE_ROTARY`).
_ALIASES = {
    **{f"hook_{name}": name for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")},
    "hook_embed": "embed",
    "hook_pos_embed": "pos_embed",
    "unembed.hook_out": "logits",
    "attn.hook_rot_q": "q",
    "attn.hook_rot_k": "k",
    "attn.hook_v": "v",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "attn.hook_z": "z",
    "attn.hook_in": "attn_in",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_post",
}

BEFORE_ROTARY = re.compile(r"blocks\.(\d+)\.attn\.hook_([qk])")
"""TransformerLens's queries and keys before the rotary embedding: ours only in a model that has none."""

AFTER_NORM = re.compile(r"(?:blocks\.(\d+)\.)?(ln1|ln2|ln_final)\.hook_normalized")
"""TransformerLens's normalised residuals: after the norm's gain and bias in some of its versions, before in others."""


class SiteUnavailable(LookupError):
    """Raised when a site is asked for that does not exist, or not in this architecture.

    The message says what was asked, why it is not there and what is; a site is never approximated.
    """


class Site(NamedTuple):
    """A place in the model: a name and, for the sites of a block, a layer, and for those of attention, a head.

    Any other name is the path of a module, for what comes out of it, or with `.input` for what goes in.

    >>> Site.parse("resid_post.5")
    Site(name='resid_post', layer=5, head=None)
    >>> Site.parse(("resid_post", 5)) == Site.parse("blocks.5.hook_resid_post")
    True
    >>> str(Site("z", 9, 6))
    'z.9.6'
    >>> Site.parse("model.layers.5.mlp.input").name
    'model.layers.5.mlp.input'
    """

    name: str
    layer: int | None = None
    head: int | None = None

    @classmethod
    def parse(cls, what: SiteLike) -> Site:
        """Read a site from `"resid_post"`, `"z.5.3"`, `("resid_post", 5)`, a TransformerLens name or a module path.

        A name without a layer stands for all layers. Raises `SiteUnavailable` for what can be neither.
        """
        if isinstance(what, tuple):
            return cls._checked(*what)
        if found := re.fullmatch(r"blocks\.(\d+)\.([\w.]+)", what):
            name = _ALIASES.get(found[2], found[2])
            return cls._checked(name, int(found[1])) if name in NAMES else cls._checked(what)
        if (found := re.fullmatch(r"(\w+)\.(-?\d+)(?:\.(-?\d+))?", what)) and found[1] in NAMES:
            return cls._checked(found[1], int(found[2]), int(found[3]) if found[3] else None)
        return cls._checked(_ALIASES.get(what, what))

    @classmethod
    def _checked(cls, name: object, layer: object = None, head: object = None, *more: object) -> Site:
        if not isinstance(name, str) or not name or more:
            raise SiteUnavailable(f"{(name, layer, head, *more)!r} is not a site. {NAMED}")
        name = _ALIASES.get(name, name)
        for what, index in (("layer", layer), ("head", head)):
            if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
                raise TypeError(f"the {what} of {name!r} must be a whole number, not {index!r}.")
        if layer is not None and name in SINGLE:
            raise SiteUnavailable(f"{name!r} exists once in a model, not in every layer: ask for {name!r}.")
        if layer is not None and name not in NAMES:
            raise SiteUnavailable(f"{name!r} is not a site. {NAMED}")
        if head is not None and name not in HEADED:
            raise SiteUnavailable(f"{name!r} has no heads: ask for ({name!r}, layer). {', '.join(HEADED)} have.")
        return cls(name, layer, head)  # pyright: ignore[reportArgumentType] -- just checked

    @property
    def is_path(self) -> bool:
        """Whether it names a module of the model rather than one of lenskit's sites."""
        return self.name not in NAMES

    def __str__(self) -> str:
        return ".".join(str(part) for part in self if part is not None)


SiteLike = str | tuple[str, int] | tuple[str, int, int] | Site

NAMED = f"Sites are: {', '.join(NAMES)}; or the path of a module, such as 'lm_head' or 'model.layers.0.mlp.input'."


class Axes(NamedTuple):
    """Which axes of a site's tensor are what. The batch is always the first."""

    pos: int
    head: int | None


@lru_cache(maxsize=1024)
def axes_of(name: str) -> Axes:
    """(batch, pos, ...), (batch, pos, head, d_head), or (batch, head, query, key), whose positions are the queries."""
    if name in ("scores", "pattern"):
        return Axes(2, 1)
    return Axes(1, 2 if name in HEADED or BEFORE_ROTARY.fullmatch(name) else None)


def head_of(tensor: Tensor, site: Site) -> Tensor:
    """The one head of a site's tensor that the site names, a view without the head axis; or the whole of it."""
    if site.head is None:
        return tensor
    axis = axes_of(site.name).head
    assert axis is not None
    if not -tensor.shape[axis] <= site.head < tensor.shape[axis]:
        raise SiteUnavailable(f"{str(site)!r} does not exist: {site.name!r} has {tensor.shape[axis]} heads here.")
    return tensor.select(axis, site.head)


class Sites:
    """The sites of a model as a table: a name, and the reason where it cannot be read.

    Iterating gives the names that exist in every layer; `name in model.sites` asks for one. `reasons` maps every name
    to None or the reason; `layers` tells where a site exists in some layers only.
    """

    def __init__(
        self, family: str, reasons: Mapping[str, str | None], layers: Mapping[str, list[int]] | None = None
    ) -> None:
        self.family, self.reasons, self.layers = family, reasons, layers or {}

    def __iter__(self) -> Iterator[str]:
        return (name for name, reason in self.reasons.items() if reason is None)

    def __contains__(self, name: str) -> bool:
        return name in self.reasons and self.reasons[name] is None

    def __repr__(self) -> str:
        if len(whole := set(self.reasons.values())) == 1 and None not in whole:
            return f"Sites of {self.family}\n  none: {whole.pop()}"
        lines = [f"Sites of {self.family}"]
        for name, reason in self.reasons.items():
            what = {**LAYERED, **SINGLE}[name] + (", in each layer" if name in LAYERED else "")
            if reason is not None and (some := self.layers.get(name)):
                what, reason = f"{what.removesuffix(', in each layer')}, in layers {_brief(some)} only", None
            why = re.sub(rf"^'{name}' does not exist in [^:]*: ", "", reason or "")
            lines.append(f"  {name:<11} {what}" if reason is None else f"  {name:<11} unavailable: {why}")
        return "\n".join(lines)


def _brief(layers: list[int]) -> str:
    return ", ".join(map(str, layers)) if len(layers) <= 8 else f"{', '.join(map(str, layers[:6]))}, ... {layers[-1]}"
