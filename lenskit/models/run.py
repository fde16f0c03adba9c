"""Run: the frozen result of one forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lenskit.models.origin import Origin
from lenskit.models.running.kept import Kept
from lenskit.models.sites import Site, SiteLike

if TYPE_CHECKING:
    from lenskit.models.text import Text


@dataclass(frozen=True, eq=False)
class Run:
    """What a forward gave: logits, tokens, and the activations that were asked for.

    `run["resid_post"]` stacks the layers in front, (layer, batch, pos, d_model); `run["resid_post", 5]` is one layer,
    (batch, pos, d_model); `run["z", 5, 3]` one head. A site that was not kept raises `KeyError` and names what was.

    Attributes:
        output: what the model gave, (batch, pos, vocab); None for a run that stopped before.
        tokens: the token ids, (batch, pos).
        mask: (batch, pos), 1 for a real token and 0 for padding; None where nothing is padded.
        provenance: model, revision, dtype, device, attention, adapters, edits and versions.
        grads: the gradients at what was kept, where they were asked for. Read `run.grad[site]`.
    """

    output: Tensor | None
    tokens: Tensor
    mask: Tensor | None
    kept: Mapping[str, Kept] = field(repr=False)
    origin: Origin = field(repr=False)
    text: Text = field(repr=False)
    grads: Mapping[str, Kept] | None = field(default=None, repr=False)

    @property
    def logits(self) -> Tensor:
        """(batch, pos, vocab), bit-equal to what the Hugging Face model returns. Not there after `stop_at`."""
        if self.output is None and "stop_at" in self.provenance:
            raise ValueError(f"this run stopped at {self.provenance['stop_at']}, before the logits.")
        if self.output is None and "step" in self.provenance:
            raise KeyError("'logits' was not kept: generate again with keep='logits'.")
        if self.output is None:
            raise TypeError(f"{self.provenance['model']} returned no tensor: keep one of its modules instead.")
        return self.output

    def __getitem__(self, what: SiteLike) -> Tensor:
        site = Site.parse(what)
        return self.logits if site.name == "logits" else _read(self.kept, site)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from, as plain data."""
        return self.origin.as_dict()

    @property
    def grad(self) -> Gradients:
        """The gradients of the loss at the kept sites, indexed as the run itself: `run.grad["z", 5]`."""
        if self.grads is None:
            raise ValueError("this run has no gradients: run with grads=fn, where fn(run) gives a scalar.")
        return Gradients(self.grads)

    @cached_property
    def loss_per_token(self) -> Tensor:
        """(batch, pos - 1): the cross-entropy of each next token, in nats; 0 where either is padding."""
        self._check_tokens("no loss of a next token")
        log_probs = self.logits[:, :-1].float().log_softmax(-1)
        losses = -log_probs.gather(-1, self.tokens[:, 1:, None])[..., 0]
        return losses if self.mask is None else losses * (self.mask[:, 1:] * self.mask[:, :-1])

    @cached_property
    def loss(self) -> Tensor:
        """The mean cross-entropy of the next token over the real tokens of all rows, in nats."""
        count = self.loss_per_token.numel() if self.mask is None else (self.mask[:, 1:] * self.mask[:, :-1]).sum()
        return self.loss_per_token.sum() / count

    @cached_property
    def str_tokens(self) -> list[list[str]]:
        """The text of each token, row by row, as `show` makes it visible."""
        from lenskit.models.text import show

        self._check_tokens("no text")
        return [[show(piece) for piece in self.text.pieces(row)] for row in self.tokens.tolist()]

    def __repr__(self) -> str:
        kept = ", ".join(f"{name}[{len(kept.layers)}]" if kept.layers else name for name, kept in self.kept.items())
        return f"Run({shape_of(self.tokens)}, kept: {kept or 'nothing'}, {self.provenance['model']})"

    def _check_tokens(self, what: str) -> None:
        """Raise for a run of a plain module, which did not read tokens."""
        if not _are_tokens(self.tokens):
            raise TypeError(f"this run has {what}: it read {shape_of(self.tokens)}, and no token ids.")


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of a loss at the kept sites of a run, each of its activation's shape."""

    kept: Mapping[str, Kept]

    def __getitem__(self, what: SiteLike) -> Tensor:
        return _read(self.kept, Site.parse(what))


def shape_of(given: Tensor) -> str:
    """What a forward was given, in words: `2 x 9 tokens`, or of a plain module, `2 x 3 x 8 numbers`."""
    return f"{' x '.join(map(str, given.shape))} {'tokens' if _are_tokens(given) else 'numbers'}"


def _are_tokens(given: Tensor) -> bool:
    return given.dim() == 2 and not given.is_floating_point()


def _read(kept: Mapping[str, Kept], site: Site) -> Tensor:
    if site.name not in kept:
        has = ", ".join(map(repr, kept)) or "nothing"
        raise KeyError(f"{str(site)!r} was not kept: this run kept {has}. Run again with keep={site.name!r}.")
    return kept[site.name].read(site)
