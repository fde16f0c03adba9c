"""Ablating heads: what the model says next without them, beside what it says as it is."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from lenskit.models.edits import Edit, Mean, Zero
from lenskit.models.patterns import shares_done
from lenskit.models.steps import finish, in_steps
from lenskit.models.text import Piece, show

if TYPE_CHECKING:
    from lenskit.models.model import Model

By = Literal["zero", "mean"]


@dataclass(frozen=True, eq=False)
class HeadAblation:
    """The next token at the last position, before and after some heads were ablated together.

    Attributes:
        heads: the ablated heads as (layer, head).
        by: "zero", or "mean": the head's mean over the positions of this prompt.
        ids: (k,) the likeliest tokens of both, the likelier in either first.
        before, after: (k,) their probabilities.
        kl: KL(before || after) over the whole vocabulary, in nats.
        pieces: the text of each of these tokens, by id.
        provenance: as of the run with the ablation; its edits can be used again.
    """

    heads: tuple[tuple[int, int], ...]
    by: By
    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray
    kl: float
    pieces: Mapping[int, Piece] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        heads = ", ".join(f"{layer}.{head}" for layer, head in self.heads)
        first, last = (int(self.ids[values.argmax()]) for values in (self.before, self.after))
        says = f"{show(self.pieces[first])!r} -> {show(self.pieces[last])!r}"
        return f"HeadAblation({self.by} {heads}: {says}, KL {self.kl:.2f} nats)"


def ablations(heads: Sequence[tuple[int, int]], by: By) -> tuple[Edit, ...]:
    """The edits that ablate these heads: one for each layer, at `z`.

    >>> ablations([(9, 6), (9, 1)], "zero")
    (Zero('z', layers=9, heads=[1, 6]),)
    """
    if by not in ("zero", "mean"):
        raise ValueError(f"heads are ablated by 'zero' or by 'mean', not {by!r}.")
    layers = sorted({layer for layer, _ in heads})
    chosen = {layer: sorted({head for at, head in heads if at == layer}) for layer in layers}
    if by == "zero":
        return tuple(Zero("z", layers=layer, heads=chosen[layer]) for layer in layers)
    return tuple(Mean("z", layers=layer, heads=chosen[layer], over="pos") for layer in layers)


def ablate_heads(
    model: Model, prompt: str | Sequence[int], heads: Sequence[tuple[int, int]], by: By = "zero", *, k: int = 6
) -> HeadAblation:
    """What the model says after a prompt with some heads ablated together, beside what it says as it is.

    Args:
        prompt: a text, or one row of ids.
        heads: (layer, head) of each.
        by: "zero" puts zeros in the place of what a head gives to the output projection (`z`); "mean" its mean over
            the prompt's positions, which keeps what the head does everywhere alike.
        k: how many of the likeliest tokens to give, of each of the two.

    Raises `NothingEdited` for a head that does not exist, and what `model.run` raises.

    >>> ablate_heads(model, "When Mary and John went to the store, John gave a drink to", [(18, 6)])  # doctest: +SKIP
    """
    before = model.run(prompt if isinstance(prompt, str) else list(prompt)).logits[0, -1]
    return finish(ablating(model, prompt, heads, by, before, k))


def ablating(
    model: Model, prompt: str | Sequence[int], heads: Sequence[tuple[int, int]], by: By, before: Tensor, k: int = 6
) -> Generator[float, None, HeadAblation]:
    """`ablate_heads` in steps, with the logits (vocab,) of the last position without the ablation at hand."""
    if not heads:
        return compared(model, heads, by, before, before, model.provenance, k)
    given = prompt if isinstance(prompt, str) else list(prompt)
    edits = ablations(heads, by)
    blocks = model.anatomy.blocks
    run = yield from shares_done(in_steps(lambda: model.run(given, edits=edits), blocks), len(blocks))
    return compared(model, heads, by, before, run.logits[0, -1], run.provenance, k)


def compared(
    model: Model,
    heads: Sequence[tuple[int, int]],
    by: By,
    before: Tensor,
    after: Tensor,
    provenance: Mapping[str, Any],
    k: int,
) -> HeadAblation:
    """Two predictions (vocab,) of logits side by side."""
    was, now = (logits.detach().double().cpu().log_softmax(-1) for logits in (before, after))
    top = {*was.topk(min(k, len(was))).indices.tolist(), *now.topk(min(k, len(now))).indices.tolist()}
    ids = sorted(top, key=lambda i: -max(float(was[i]), float(now[i])))
    kl = float((was.exp() * (was - now)).nan_to_num(0.0, posinf=float("inf")).sum())
    return HeadAblation(
        tuple(heads),
        by,
        np.asarray(ids, np.int32),
        was[ids].exp().float().numpy(),
        now[ids].exp().float().numpy(),
        max(kl, 0.0),
        dict(zip(ids, model.text.pieces(ids), strict=True)),
        provenance,
    )
