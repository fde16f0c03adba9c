"""Attention: which tokens every head of a model looks at on one prompt, and the live source that follows the prompt."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.edits import Edit
from lenskit.models.head_scores import KINDS, Kind, repeated_tokens, shares, target_positions
from lenskit.models.prefix import Prefix, common_length
from lenskit.models.run import Run
from lenskit.models.sites import SiteUnavailable
from lenskit.models.steps import finish, in_steps
from lenskit.models.text import Piece, show

if TYPE_CHECKING:
    from lenskit.models.model import Model

Weighting = Literal["pattern", "value-weighted"]

# What all patterns of a prompt may take in float32.
_LARGEST = 512 * 1024**2
# Below this share, what a query leaves to others than the first token is noise, and is not blown up to a whole.
_FAINT = 0.01
_REPEATED = 25


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention patterns of every head on one prompt.

    Attributes:
        ids: (pos,) the prompt's token ids.
        layers: the layers that have patterns; the first axis of the arrays follows them.
        heads: how many heads each of them has.
        pattern: (layer, head, query, key), what the model went on with; rows sum to 1 (a little less with sinks).
        value_norm: (layer, head, key), |v W_O| of each head and token, the size of what the head would write if it
            looked there alone, before a post-norm; None where it was not asked for or `why` says it is not to be had.
        why: why there is no `value_norm`, or None.
        pieces: the text of each token that occurs, by id; bytes where it is not valid UTF-8 by itself.
        provenance: model, revision, dtype, device, attention, edits, versions.
    """

    ids: np.ndarray
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    pattern: np.ndarray
    value_norm: np.ndarray | None
    why: str | None
    pieces: Mapping[int, Piece] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def tokens(self) -> list[str]:
        """The prompt's tokens as people should see them."""
        return [show(self.pieces[i]) for i in self.ids.tolist()]

    def weights(
        self, layer: int, head: int, weighting: Weighting = "pattern", *, hide_first: bool = False
    ) -> np.ndarray:
        """(query, key) of one head, each row a share of 1.

        Args:
            layer, head: the layer's number and the head's.
            weighting: "pattern" as the model has it; "value-weighted" is pattern x |v W_O|, which counts how much is
                moved rather than looked at, each row scaled to sum to 1.
            hide_first: leave the first token out and scale each row to sum to 1 without it. A query that leaves less
                than 1 % to the others has a row of zeros: what is left of it would be noise.

        Raises `IndexError` for a head that does not exist, `ValueError` where the values were not kept.
        Source: Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms" (2020).
        """
        row = self._row(layer, head)
        return self._weighed(row, slice(head, head + 1), weighting, hide_first)[0]

    def thumbnails(self, weighting: Weighting = "pattern", *, hide_first: bool = False, side: int = 48) -> np.ndarray:
        """(layer, head, side, side) of every head, 255 for all of the attention; each the largest of what it covers."""
        length = len(self.ids)
        side = min(side, length)
        edges = np.linspace(0, length, side + 1).astype(int)[:-1]
        made = np.zeros((*self.pattern.shape[:2], side, side), np.uint8)
        for row in range(len(self.layers)):
            weighed = self._weighed(row, slice(None), weighting, hide_first)
            if side < length:
                weighed = np.maximum.reduceat(np.maximum.reduceat(weighed, edges, axis=1), edges, axis=2)
            made[row] = np.rint(np.clip(weighed, 0, 1) * 255)
        return made

    def _weighed(self, row: int, heads: slice, weighting: Weighting, hide_first: bool) -> np.ndarray:
        """(head, query, key)."""
        if weighting not in ("pattern", "value-weighted"):
            raise ValueError(f"the weighting is 'pattern' or 'value-weighted', not {weighting!r}.")
        weighed = self.pattern[row, heads]
        if weighting == "value-weighted":
            if self.value_norm is None:
                raise ValueError(self.why or "the sizes of the values were not kept: read with values=True.")
            weighed = weighed * self.value_norm[row, heads, None, :]
        elif not hide_first:
            return weighed
        total = weighed.sum(-1, keepdims=True)
        if hide_first:
            weighed = weighed.copy()
            weighed[..., 0] = 0
            rest = weighed.sum(-1, keepdims=True)
            return np.divide(weighed, rest, out=np.zeros_like(weighed), where=rest > _FAINT * total)
        return np.divide(weighed, total, out=np.zeros_like(weighed), where=total > 0)

    def _row(self, layer: int, head: int) -> int:
        if layer not in self.layers or not 0 <= head < self.heads[self.layers.index(layer)]:
            raise IndexError(
                f"head {layer}.{head} does not exist: there are patterns in layers {_brief(self.layers)}, with "
                f"{max(self.heads)} heads."
            )
        return self.layers.index(layer)

    def __repr__(self) -> str:
        shape = f"{len(self.layers)} layers x {max(self.heads)} heads x {len(self.ids)} tokens"
        return f"Attention({shape} of {self.provenance['model']})"


@dataclass(frozen=True, eq=False)
class HeadScores:
    """How much each head is of one kind, and what that was measured on.

    Attributes:
        kind: "previous", "induction" or "duplicate"; see `lk.head_scores`.
        values: (layer, head), between 0 and 1.
        positions: how many queries had a place to look at.
        random: whether they are of repeated random tokens, because no token of the prompt comes twice.
    """

    kind: Kind
    values: np.ndarray
    positions: int
    random: bool


def attention(model: Model, prompt: Prompt) -> Attention:
    """The patterns of every head on one prompt, with the sizes of the values where they can be had.

    All patterns are held in float32, 4 bytes x layers x heads x tokens squared; a prompt that would need more than
    512 MiB is refused before anything runs.

    Raises `SiteUnavailable` where no layer has patterns, and what `model.run` raises.

    >>> seen = lk.attention(model, "When Mary and John went to the store, John gave a drink to")  # doctest: +SKIP
    >>> seen.weights(16, 0, hide_first=True)[9].argmax()                                         # doctest: +SKIP
    """
    return finish(LivePatterns(model).update(prompt, values=True))


class LivePatterns:
    """The live source of an attention view: it holds the patterns of a prompt, and turns them into the next one's.

    Only the positions after the first change run again, where the architecture allows. One update runs at a time; a
    generator may be closed at any yield, and what was held before stays good.

    >>> live = LivePatterns(model)                                       # doctest: +SKIP
    >>> finish(live.update("The capital of France is")).pattern.shape    # doctest: +SKIP
    (30, 9, 5, 5)
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.ran = 0
        self.logits = torch.empty(0)  # (vocab,) of the last position
        self._prefix = Prefix(model)
        self._held: _Held | None = None
        self._attention: Attention | None = None
        self._random: dict[Kind, HeadScores] = {}
        self._random_edits: tuple[Edit, ...] = ()

    def layers(self) -> list[int]:
        """The layers that have patterns. Raises `SiteUnavailable` with the reason where none has."""
        sites = self.model.sites
        layers = sites.layers.get("pattern", [])
        if not layers:
            raise SiteUnavailable(sites.reasons["pattern"] or f"{self.model.name} has no attention patterns.")
        return layers

    def update(self, prompt: Prompt, *, values: bool = False) -> Generator[float, None, Attention]:
        """The patterns of a prompt in steps: yields the share done before every block. `ran` positions were computed.

        Raises `ValueError` for several prompts, or one whose patterns would take more than 512 MiB.
        """
        model, layers = self.model, self.layers()
        batch = model.batch(prompt)
        if len(batch.tokens) > 1:
            raise ValueError(f"a view of attention follows one prompt, not {len(batch.tokens)}.")
        tokens: list[int] = batch.tokens[0].tolist()
        self._check_size(len(layers), len(tokens))
        held = self._held
        if held is None or held.tokens != tokens or held.edits != model.edits:
            known = 0 if held is None else self._known(held, tokens)
            run = yield from shares_done(self._run(tokens, layers, known), len(model.anatomy.blocks))
            held = _Held.of(run, layers, tokens, known, held, model.edits)
            self.ran, self.logits, self._held = len(tokens) - known, run.logits[0, -1].float().cpu(), held
            self._attention = None
        else:
            self.ran = 0
        if self._attention is None or (values and self._attention.value_norm is None and not self._attention.why):
            self._attention = yield from self._made(held, layers, values)
        return self._attention

    def scores(self, kind: Kind) -> Generator[float, None, HeadScores]:
        """How much each head is of a kind: on the prompt last read, where it has such places, else on random tokens.

        The random tokens are `lk.repeated_tokens`, run once. Raises `ValueError` before the first update.
        """
        held = self._held
        if held is None:
            raise ValueError("there is no prompt yet: update first.")
        tokens = torch.tensor([held.tokens])
        if positions := target_positions(tokens, None, kind):
            values = shares(held.pattern[:, None], tokens, None, kind)
            return HeadScores(kind, values.numpy(), positions, random=False)
        if self._random_edits != self.model.edits:
            self._random = {}
        if kind not in self._random:
            yield from self._score_random()
        return self._random[kind]

    def _score_random(self) -> Generator[float, None, None]:
        model, layers, edits = self.model, self.layers(), self.model.edits
        context = model.anatomy.context
        tokens = repeated_tokens(model, _REPEATED if context is None else min(_REPEATED, context // 2))
        keep = [("pattern", layer) for layer in layers]
        steps = in_steps(lambda: model.run(tokens, keep=keep), model.anatomy.blocks)
        run = yield from shares_done(steps, len(model.anatomy.blocks))
        pattern = _stacked([run["pattern", layer][0].float().cpu() for layer in layers])[:, None]
        for kind in KINDS:
            count = target_positions(run.tokens.cpu(), None, kind)
            values = shares(pattern, run.tokens.cpu(), None, kind).numpy()
            self._random[kind] = HeadScores(kind, values, count, random=True)
        self._random_edits = edits

    def _known(self, held: _Held, tokens: Sequence[int]) -> int:
        """How many leading positions need not run again; the last one always does, for its prediction."""
        if not self.model.anatomy.causal or self.model.edits or held.edits or not self._prefix.reusable:
            return 0
        return min(common_length(tokens, held.tokens), self._prefix.shared(tokens), len(tokens) - 1)

    def _run(self, tokens: list[int], layers: list[int], known: int) -> Generator[None, None, Run]:
        names = ["pattern", *(["v"] if set(layers) <= set(self.model.sites.layers["v"]) else [])]
        keep = [(name, layer) for name in names for layer in layers]
        return in_steps(lambda: self._prefix.run(tokens, keep=keep, known=known), self.model.anatomy.blocks)

    def _made(self, held: _Held, layers: list[int], values: bool) -> Generator[float, None, Attention]:
        norms, why = (yield from _value_norms(self.model, held, layers)) if values else (None, None)
        ids = held.tokens
        pieces = dict(zip(ids, self.model.text.pieces(ids), strict=True))
        pattern = held.pattern.numpy()
        pattern.flags.writeable = False
        return Attention(
            np.asarray(ids, np.int32), tuple(layers), held.heads, pattern, norms, why, pieces, self.model.provenance
        )

    def _check_size(self, layers: int, length: int) -> None:
        heads = 1 if self._held is None else max(self._held.heads)
        config = getattr(self.model.anatomy.model, "config", None)
        heads = max(heads, getattr(config, "num_attention_heads", None) or 1)
        wanted = 4 * layers * heads * length**2
        if wanted > _LARGEST:
            most = int((_LARGEST / (4 * layers * heads)) ** 0.5)
            raise ValueError(
                f"the patterns of {layers * heads:,} heads over {length:,} tokens take {wanted / 1024**2:,.0f} MiB, "
                f"and at most {_LARGEST / 1024**2:.0f} are held: shorten the prompt to {most:,} tokens."
            )


@dataclass(frozen=True, eq=False)
class _Held:
    """What is kept of the last prompt: all patterns, and v of each layer, for the sizes of the values."""

    tokens: list[int]
    edits: tuple[Edit, ...]
    heads: tuple[int, ...]
    pattern: Tensor  # (layer, head, query, key)
    v: list[Tensor] | None  # by layer, (pos, key-value head, d_head)

    @classmethod
    def of(
        cls, run: Run, layers: list[int], tokens: list[int], known: int, before: _Held | None, edits: tuple[Edit, ...]
    ) -> _Held:
        """What a run from position `known` on gave, behind what was held of the positions before it."""
        fresh = len(tokens) - known
        rows = [run["pattern", layer][0, :, -fresh:].float().cpu() for layer in layers]
        pattern = torch.zeros(len(rows), max(map(len, rows)), len(tokens), len(tokens))
        if known and before is not None:
            pattern[:, :, :known, :known] = before.pattern[:, :, :known, :known]
        for row, new in zip(pattern, rows, strict=True):
            row[: len(new), known:] = new

        v = None
        if "v" in run.kept:
            v = [run["v", layer][0, -fresh:].float().cpu() for layer in layers]
            if known and before is not None and before.v is not None:
                v = [torch.cat([old[:known], new]) for old, new in zip(before.v, v, strict=True)]
        return cls(tokens, edits, tuple(map(len, rows)), pattern, v)


def _value_norms(
    model: Model, held: _Held, layers: list[int]
) -> Generator[float, None, tuple[np.ndarray | None, str | None]]:
    """(layer, head, key) |v W_O|, or None and the reason; in steps of a layer."""
    if held.v is None:
        return None, model.sites.reasons["v"] or f"{model.name} has no 'v' in some layers that have patterns."
    norms = torch.zeros(held.pattern.shape[:2] + held.pattern.shape[-1:])
    for row, layer in enumerate(layers):
        try:
            w_o = model.weights.W_O[layer].float()  # (head, d_head, d_model)
        except SiteUnavailable as error:
            return None, str(error)
        heads = held.heads[row]
        v = held.v[row].repeat_interleave(heads // held.v[row].shape[1], 1)  # (pos, head, d_head)
        for head in range(heads):
            norms[row, head] = (v[:, head] @ w_o[head].to(v.device)).norm(dim=-1)
        yield (row + 1) / len(layers)
    return norms.numpy(), None


def _stacked(patterns: list[Tensor]) -> Tensor:
    """(layer, head, query, key); layers with fewer heads are filled with zeros."""
    whole = torch.zeros(len(patterns), max(map(len, patterns)), *patterns[0].shape[1:])
    for row, pattern in zip(whole, patterns, strict=True):
        row[: len(pattern)] = pattern
    return whole


def shares_done(steps: Generator[None, None, Run], count: int) -> Generator[float, None, Run]:
    """The steps of a forward of `count` blocks as shares of it."""
    done = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        done = min(done + 1, count)
        yield done / count


def _brief(layers: Sequence[int]) -> str:
    whole = list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if whole else ", ".join(map(str, layers))
