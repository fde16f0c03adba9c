"""Site: the names of the places in a model that one can read.

The names and their meaning are TransformerLens's; the numbers are those of the Hugging Face model itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LAYERED = {
    "resid_pre": "what enters the block",
    "attn_out": "what attention adds to the residual stream",
    "resid_mid": "the residual stream between attention and MLP",
    "mlp_out": "what the MLP adds to the residual stream",
    "resid_post": "what leaves the block",
}
SINGLE = {
    "embed": "the token embedding",
    "final_norm": "the last residual after the final norm",
    "logits": "the model's prediction of the next token",
}
NAMES = ("embed", *LAYERED, "final_norm", "logits")

_ALIASES = {
    **{f"hook_{name}": name for name in LAYERED},
    "hook_embed": "embed",
    "ln_final.hook_normalized": "final_norm",
}


class SiteUnavailable(LookupError):
    """Raised when a site is asked for that does not exist, or not in this architecture.

    The message says what was asked, why it is not there and what is; a site is never approximated.
    """


class Site(NamedTuple):
    """A place in the model: a name and, for the sites of a block, a layer.

    >>> Site.parse("resid_post.5")
    Site(name='resid_post', layer=5)
    >>> Site.parse(("resid_post", 5)) == Site.parse("blocks.5.hook_resid_post")
    True
    >>> str(Site("attn_out", 0))
    'attn_out.0'
    """

    name: str
    layer: int | None = None

    @classmethod
    def parse(cls, what: SiteLike) -> Site:
        """Read a site from `"resid_post"`, `"resid_post.5"`, `("resid_post", 5)` or a TransformerLens name.

        A name without a layer stands for all layers. Raises `SiteUnavailable` for a name that is none.
        """
        if isinstance(what, tuple):
            return cls._checked(*what)
        if found := re.fullmatch(r"blocks\.(\d+)\.(\w+)", what):
            return cls._checked(_ALIASES.get(found[2], found[2]), int(found[1]))
        if found := re.fullmatch(r"(\w+)\.(-?\d+)", what):
            return cls._checked(found[1], int(found[2]))
        return cls._checked(_ALIASES.get(what, what))

    @classmethod
    def _checked(cls, name: object, layer: object = None, *more: object) -> Site:
        if name not in NAMES:
            raise SiteUnavailable(f"{name!r} is not a site. Sites are: {', '.join(NAMES)}.")
        if more:
            raise SiteUnavailable(f"{name!r} has no heads: ask for ({name!r}, layer).")
        if layer is not None and not isinstance(layer, int):
            raise TypeError(f"the layer of {name!r} must be a whole number, not {layer!r}.")
        if layer is not None and name in SINGLE:
            raise SiteUnavailable(f"{name!r} exists once in a model, not in every layer: ask for {name!r}.")
        return cls(str(name), layer)

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name}.{self.layer}"


SiteLike = str | tuple[str, int] | Site


class Sites:
    """The sites of a model as a table: a name, and the reason where it cannot be read."""

    def __init__(self, family: str, reasons: dict[str, str | None]) -> None:
        self.family, self.reasons = family, reasons

    def __iter__(self) -> Iterator[str]:
        return (name for name, reason in self.reasons.items() if reason is None)

    def __contains__(self, name: str) -> bool:
        return name in self.reasons and self.reasons[name] is None

    def __repr__(self) -> str:
        lines = [f"Sites of {self.family}"]
        for name, reason in self.reasons.items():
            what = {**LAYERED, **SINGLE}[name] + (", in each layer" if name in LAYERED else "")
            lines.append(f"  {name:<11} {what}" if reason is None else f"  {name:<11} unavailable: {reason}")
        return "\n".join(lines)
