"""LiveFeatures: which features fire on a prompt as it is typed, and what the model says when one of them is changed."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lenskit.models.edits import Add, Edit
from lenskit.models.prefix import Prefix, common_length
from lenskit.models.run import Run
from lenskit.models.sites import HEADED, Site
from lenskit.models.steps import finish, in_steps
from lenskit.models.text import Piece
from lenskit.transcoders.index import bases
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.transcoders.index.feature_index import FeatureIndex

By = Literal["scale", "add"]

# What neurons write to the residual stream by way of a projection: there a random direction of their size is added.
_WRITTEN = {"mlp_post": "mlp_out", "mlp_pre": "mlp_out", "z": "attn_out"}
# So many positions in one forward of random directions: it is watched, and wants to be interrupted.
_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Fired:
    """The features that are active on a prompt, token by token; nothing is stored of the others.

    Attributes:
        ids: (pos,) the prompt's tokens.
        features, values: (active,) which, and how much.
        offsets: (pos + 1,) where in these each token begins, and at last their number.
        pieces: the text of each token, by id.
        ran: how many positions went through the model.
    """

    ids: np.ndarray
    features: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    pieces: Mapping[int, Piece] = field(repr=False)
    ran: int = 0

    @property
    def positions(self) -> np.ndarray:
        """(active,) the token at which each is active."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))

    def of(self, feature: int) -> np.ndarray:
        """(pos,) how active one feature is; 0 where it is not."""
        found = np.zeros(len(self.ids), np.float32)
        here = self.features == feature
        found[self.positions[here]] = self.values[here]
        return found

    def at(self, pos: int) -> tuple[np.ndarray, np.ndarray]:
        """The features that are active at a token, and how much."""
        begin, end = self.offsets[pos], self.offsets[pos + 1]
        return self.features[begin:end], self.values[begin:end]

    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """The features that are active anywhere, each once, and how active each is at most."""
        features, which = np.unique(self.features, return_inverse=True)
        most = np.zeros(len(features), np.float32)
        np.maximum.at(most, which, self.values)
        return features, most


@dataclass(frozen=True, eq=False)
class Steered:
    """The next token after a prompt, as the model is and with one feature changed, beside random directions.

    Attributes:
        ids: (k,) the likeliest tokens of both.
        before, after: (k,) their probabilities.
        placebo: (draw, k) with a random direction of the same size at each position in the feature's place.
        kl: KL(before || after) over the whole vocabulary, in nats.
        placebo_kl: (draw,) the same of each random direction.
        of: how many random directions there will be.
        pieces: the text of each token, by id.
    """

    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray
    placebo: np.ndarray
    kl: float
    placebo_kl: np.ndarray
    of: int
    pieces: Mapping[int, Piece] = field(repr=False)

    def __repr__(self) -> str:
        mean = f"{self.placebo_kl.mean():.3f}" if len(self.placebo_kl) else "none yet"
        return f"Steered(KL {self.kl:.3f} nats; {len(self.placebo_kl)} random directions: {mean})"


@dataclass(frozen=True)
class _Held:
    """A prompt that was run: what is at the sites looked at, what enters the first layer written, the last logits."""

    tokens: list[int]
    states: dict[Site, Tensor]
    logits: Tensor
    edits: tuple[Edit, ...]


class LiveFeatures:
    """The live source of a feature browser: it holds a prompt's run, and goes on from there for each change.

    Typing on runs the new positions only, where the architecture allows it; a change runs only the layers from the
    first one written. Its generators yield between layers and may be closed at any yield: nothing is left behind.

    Args:
        index: of the features. What it skips at a text's beginning is skipped here too, when read and when changed.
        model: its model.
        basis: the dictionary, where the index was made of an object and cannot load it by itself.
        top_k: so many of the likeliest next tokens, before and after.
        draws: so many random directions beside each change.

    Raises `ModelMismatch` where the index belongs to another model.

    >>> live = LiveFeatures(index, model)                                             # doctest: +SKIP
    >>> finish(live.read("He had not seen her for three long")).of(1144)              # doctest: +SKIP
    >>> model.generate(prompt, 20, edits=live.edits(prompt, 1144, by="add", amount=2))  # doctest: +SKIP
    """

    def __init__(
        self, index: FeatureIndex, model: Model, basis: bases.Basis | None = None, *, top_k: int = 6, draws: int = 20
    ) -> None:
        index.identity.check(model, f"the index at {index.folder}", "build one for this model")
        self.index, self.model, self.top_k, self.draws = index, model, top_k, draws
        self.basis = index.basis(model) if basis is None else basis
        self.site = bases.reads(self.basis)
        self.writes = bases.writes(self.basis)
        # Where random directions are added.
        self.written = tuple(self._written(site) for site in self.writes)
        layers = [site.layer for site in self.writes]
        self._layer = None if None in layers else min(layer for layer in layers if layer is not None)
        self._prefix = Prefix(model)
        self._held: _Held | None = None

    # What fires

    def read(self, prompt: str | Sequence[int]) -> Generator[float, None, Fired]:
        """What fires on a prompt, in steps: yields the share done before every block of the model.

        Raises what `model.run` raises, and ValueError for several prompts.
        """
        held, ran = yield from self._run(prompt)
        tokens, features, values = self._active(held.states[self.site])
        n = len(held.tokens)
        offsets = np.searchsorted(tokens, np.arange(n + 1))
        return Fired(np.array(held.tokens), features, values, offsets, self._pieces(held.tokens), ran)

    def _active(self, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, features and values of what is active, token by token."""
        found = bases.active(self.basis, x.float())
        tokens, features, values = (part.cpu().numpy() for part in (found.tokens, found.features, found.values))
        kept = tokens >= self.index.skip
        return tokens[kept], features[kept], values[kept].astype(np.float32)

    def _run(self, prompt: str | Sequence[int]) -> Generator[float, None, tuple[_Held, int]]:
        model, held = self.model, self._held
        batch = model.batch(prompt)
        if len(batch.tokens) > 1:
            raise ValueError(f"a view of features follows one prompt, not {len(batch.tokens)}.")
        tokens: list[int] = batch.tokens[0].tolist()
        if held is not None and held.tokens == tokens and held.edits == model.edits:
            return held, 0
        known = self._known(held, tokens)
        entering = [] if self._layer is None else [Site("resid_pre", self._layer)]
        keep = list(dict.fromkeys([self.site, *self.written, *entering]))
        forward = in_steps(lambda: self._prefix.run(tokens, keep, known=known), model.anatomy.blocks)
        run = yield from _shares(forward, len(model.anatomy.blocks))
        ran = run.tokens.shape[1]
        before = len(tokens) - ran
        states = {site: run[site][0] for site in keep}
        if held is not None and before:
            states = {site: torch.cat([held.states[site][:before], x]) for site, x in states.items()}
        self._held = _Held(tokens, states, run.logits[0, -1].float(), model.edits)
        return self._held, ran

    def _known(self, held: _Held | None, tokens: list[int]) -> int:
        """How many positions of what is held still stand."""
        model = self.model
        if held is None or model.edits or held.edits or not model.anatomy.causal:
            return 0
        return min(common_length(tokens, held.tokens), len(tokens) - 1)

    # What a change does

    def edits(
        self,
        prompt: str | Sequence[int],
        feature: int,
        *,
        by: By = "scale",
        amount: float = 0.0,
        pos: int | None = None,
    ) -> list[Add]:
        """A change of one feature on a prompt as plain edits, for runs, traces and generation of this very prompt.

        Of a dictionary this is what splicing it in with its error does: all that it misses is left as it is.

        Args:
            by: "scale" multiplies what the feature is, wherever it is active: 0 ablates it. "add" makes it stronger by
                a share of its maximum in the index, at `pos`.
            amount: the factor, or the share.
            pos: for "add", the token, by default the last.

        Raises `IndexError` for a feature or position that does not exist, and `ValueError` where nothing would change.
        """
        held, _ = finish(self._run(prompt))
        made = self._changes(held, feature, by, amount, pos)
        return [Add(site.name, value, layers=site.layer, heads=site.head) for site, value in made]

    def steer(
        self, prompt: str | Sequence[int], feature: int, by: By, amount: float, pos: int | None = None
    ) -> Generator[float | Steered, None, Steered]:
        """What a change does to the next token: yields the share done, and what is known once there is more.

        First comes the change itself, then random directions of the same size at each position, a few at a time; their
        spread says how much any change of this size moves the prediction. Raises what `edits` raises.
        """
        held, _ = yield from self._run(prompt)
        made = self._changes(held, feature, by, amount, pos)
        edits = [Add(site.name, value, layers=site.layer, heads=site.head) for site, value in made]
        logits, run = yield from self._forward(held, edits, 1, keep=self.written)
        sizes = self._sizes(held, made, run)
        steered = self._compared(held, logits[0])
        yield steered
        at_once = max(1, _AT_ONCE // len(held.tokens))
        noise = torch.Generator().manual_seed(0)
        while len(steered.placebo_kl) < self.draws:
            rows = min(at_once, self.draws - len(steered.placebo_kl))
            edits = [self._random(site, sizes[site], held.states[site], rows, noise) for site in self.written]
            logits, _ = yield from self._forward(held, edits, rows)
            steered = _with(steered, held.logits, logits)
            yield steered
        return steered

    def _changes(self, held: _Held, feature: int, by: By, amount: float, pos: int | None) -> list[tuple[Site, Tensor]]:
        """What is added to each site that the feature writes, (pos, ...)."""
        n, most = len(held.tokens), self.index.n_features
        if not 0 <= feature < most:
            raise IndexError(f"feature {feature} does not exist: there are features 0 to {most - 1}.")
        if by not in ("scale", "add"):
            raise ValueError(f"a feature is changed by 'scale' or by 'add', not {by!r}.")
        if pos is not None and not -n <= pos < n:
            raise IndexError(f"position {pos} does not exist: the prompt has positions 0 to {n - 1}.")
        change = torch.zeros(n)
        if by == "add":
            change[-1 if pos is None else pos] = amount * float(self.index.max[feature])
        else:
            tokens, features, values = self._active(held.states[self.site])
            here = features == feature
            change[torch.from_numpy(tokens[here])] = torch.from_numpy(values[here]) * (amount - 1)
        if not bool(change.any()):
            why = "it is silent on this prompt" if by == "scale" and amount != 1 else "that is no change"
            raise ValueError(f"feature {feature} by {by} {amount:g}: {why}.")
        if isinstance(self.basis, Transcoder):
            return self._of_dictionary(self.basis, held, change, feature)
        x = held.states[self.site]
        value = torch.zeros(n, x[0].numel())
        value[:, feature] = -change if self.basis.negative else change
        return [(self.site, value.view(x.shape).to(x))]

    def _of_dictionary(self, basis: Transcoder, held: _Held, change: Tensor, feature: int) -> list[tuple[Site, Tensor]]:
        x = basis.checked(held.states[self.site])
        scale = basis.normalised(x).scale if basis.restores else None
        made = []
        for write, site in enumerate(basis.writes):
            direction = basis.W_dec[write, feature]
            value = change[:, None].to(direction) * direction
            value = value if scale is None else value * scale.to(value)
            headed = site.name in HEADED and site.head is None
            like = held.states[site]
            made.append((site, (value.view(like.shape) if headed else value).to(like)))
        return made

    def _sizes(self, held: _Held, made: list[tuple[Site, Tensor]], run: Run) -> dict[Site, Tensor]:
        """(pos,) how far the change moves what is written at each place where random directions will be added."""
        if self.written == self.writes:
            return {site: value.flatten(1).norm(dim=1) for site, value in made}
        return {site: (run[site][0] - held.states[site]).flatten(1).norm(dim=1) for site in self.written}

    def _random(self, site: Site, sizes: Tensor, like: Tensor, rows: int, noise: torch.Generator) -> Add:
        """One random direction for each row, at each position as long as the change is there."""
        direction = torch.randn(rows, 1, like[0].numel(), generator=noise)
        direction = (direction / direction.norm(dim=-1, keepdim=True)).to(like)
        value = (direction * sizes[None, :, None].to(like)).view(rows, *like.shape)
        return Add(site.name, value, layers=site.layer, heads=site.head)

    def _forward(
        self, held: _Held, edits: Sequence[Edit], rows: int, keep: Sequence[Site] = ()
    ) -> Generator[float, None, tuple[Tensor, Run]]:
        """(row, vocab) the logits after the last token, of so many copies of the prompt."""
        model = self.model
        last = Site("resid_post", model.n_layers - 1)
        prompt = torch.tensor([held.tokens] * rows)
        start: dict[str, Any] = {}
        if self._layer is not None and not held.edits:
            entering = held.states[Site("resid_pre", self._layer)]
            start = {"start_at": self._layer, "resid": entering.expand(rows, *entering.shape)}
        forward = in_steps(
            lambda: model.run(prompt, keep=[last, *keep], edits=edits, stop_at=last, **start), model.anatomy.blocks
        )
        run = yield from _shares(forward, len(model.anatomy.blocks))
        with torch.no_grad():
            return model.unembed(run[last][:, -1]).float(), run

    def _compared(self, held: _Held, logits: Tensor) -> Steered:
        before, after = held.logits.log_softmax(-1), logits.log_softmax(-1)
        ids = torch.cat([before.topk(self.top_k).indices, after.topk(self.top_k).indices]).unique()
        best = torch.maximum(before, after)[ids].argsort(descending=True)
        ids = ids[best]
        return Steered(
            ids=ids.cpu().numpy(),
            before=before[ids].exp().cpu().numpy(),
            after=after[ids].exp().cpu().numpy(),
            placebo=np.zeros((0, len(ids)), np.float32),
            kl=_kl(before, after),
            placebo_kl=np.zeros(0),
            of=self.draws,
            pieces=self._pieces(ids.tolist()),
        )

    def _written(self, site: Site) -> Site:
        """Where the residual stream gets what stands at a site of neurons; of a dictionary it is the site itself."""
        name = _WRITTEN.get(site.name)
        if name is None or isinstance(self.basis, Transcoder):
            return site
        return Site(name, site.layer) if site.layer in self.model.sites.layers.get(name, ()) else site

    def _pieces(self, tokens: Sequence[int]) -> dict[int, Piece]:
        shown = sorted(set(tokens))
        return dict(zip(shown, self.model.text.pieces(shown), strict=True))


def _shares(steps: Generator[object, None, Run], of: int) -> Generator[float, None, Run]:
    """The steps of a forward of so many blocks, as shares."""
    done = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        done += 1
        yield min(1.0, done / of)


def _with(steered: Steered, before: Tensor, logits: Tensor) -> Steered:
    """The same, with some random directions more."""
    reference, found = before.log_softmax(-1), logits.log_softmax(-1)
    placebo = found[:, torch.from_numpy(steered.ids).to(found.device)].exp().cpu().numpy()
    kls = [_kl(reference, row) for row in found]
    return Steered(
        steered.ids,
        steered.before,
        steered.after,
        np.concatenate([steered.placebo, placebo]),
        steered.kl,
        np.concatenate([steered.placebo_kl, kls]),
        steered.of,
        steered.pieces,
    )


def _kl(before: Tensor, after: Tensor) -> float:
    """KL(before || after) of two log-probabilities, in nats, never below 0."""
    return max(0.0, float((before.double().exp() * (before.double() - after.double())).sum()))
