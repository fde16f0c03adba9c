"""Input times gradient: how much, on a corpus, each feature of an earlier dictionary gives to a feature directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lenskit.circuits.by_weights.bars import bars
from lenskit.circuits.by_weights.pullback import pulled_back
from lenskit.circuits.by_weights.stream import feature_name, layer_of
from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.transcoders.codes import Codes
from lenskit.transcoders.evaluate import batches_of
from lenskit.transcoders.index.embeddings import entering, norm_before
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model

# A norm worked out anew differs from the model's own by rounding alone.
_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class InputTimesGradient:
    """What the features of an earlier dictionary give to a feature directly, on average over the tokens of a corpus.

    Attributes:
        feature: the name of the feature that is reached, `"20.155"`: layer and number.
        layer: the earlier dictionary's.
        mean: (feature,) activation times gradient, in units of the pre-activation, over all tokens.
        mean_where_active: (feature,) the same over the tokens at which the feature that is reached is active; nan where
            it never is.
        frequency: (feature,) the share of the tokens at which each earlier feature is active.
        tokens, active_tokens: how many tokens were looked at, and at how many the feature is active.
    """

    feature: str
    layer: int
    mean: np.ndarray
    mean_where_active: np.ndarray
    frequency: np.ndarray
    tokens: int
    active_tokens: int

    def top(self, k: int = 10, *, where_active: bool = False) -> list[tuple[str, float]]:
        """The k earlier features with the largest means in either direction, the largest first."""
        means = self._means(where_active)
        order = np.argsort(-np.abs(means), kind="stable")[:k].tolist()
        return [(f"{self.layer}.{i}", float(means[i])) for i in order]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each earlier feature: `feature`, `mean`, `mean_where_active`, `frequency`, the largest first."""
        import pandas as pd

        table = pd.DataFrame(
            {
                "feature": np.arange(len(self.mean)),
                "mean": self.mean,
                "mean_where_active": self.mean_where_active,
                "frequency": self.frequency,
            }
        )
        return table.sort_values("mean", key=np.abs, ascending=False, kind="stable", ignore_index=True)

    def figure(self, k: int = 30, *, where_active: bool = False) -> go.Figure:
        """The k largest means as bars, in a plotly figure."""
        best = self.top(k, where_active=where_active)
        count = f"{self.active_tokens:,} tokens where it is active" if where_active else f"{self.tokens:,} tokens"
        title = f"layer {self.layer} to {self.feature}, {count}"
        return bars([name for name, _ in best], [mean for _, mean in best], title, "mean input times gradient")

    def _means(self, where_active: bool) -> np.ndarray:
        if where_active and not self.active_tokens:
            raise ValueError(f"{self.feature} is active at none of the {self.tokens:,} tokens: give more text.")
        return self.mean_where_active if where_active else self.mean

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {mean:+.3g}" for name, mean in self.top(3))
        return f"InputTimesGradient({self.feature} on {self.tokens:,} tokens: {best}, ...)"


@torch.no_grad()
def mean_input_times_gradient(
    model: Model,
    transcoder: Transcoder,
    feature: int,
    earlier: Transcoder,
    texts: Texts,
    *,
    tokens: int | None = None,
    length: int = 128,
    skip: int = 1,
) -> InputTimesGradient:
    """What each feature of an earlier dictionary gives to a feature on a corpus, on average.

    At a token it is the earlier feature's activation times the gradient of the feature's pre-activation: the connection
    of the two (see `connections`), divided by what the norm before the feature divides by at that token, which is held.
    It is the direct way, in the residual stream of one position: what goes through attention, through MLPs and through
    dictionaries' skips is left out, and so are biases. Dictionaries that normalise have their scales held as well.

    Args:
        model: the model.
        transcoder, feature: the feature that is reached.
        earlier: the dictionary whose features reach it.
        texts: texts, rows of a data set or token ids.
        tokens: how many to read; None for all.
        length: how many tokens are read together.
        skip: how many tokens at the beginning of each are not looked at: the first is like nothing else.

    Memory: one forward of 1,024 tokens at most, and a few numbers for each feature, however long the text.

    Raises:
        IndexError: there is no such feature.
        ValueError: `earlier` is not earlier; there is not one chunk of text, or nothing left of it after `skip`.
        SiteUnavailable: a dictionary does not write the residual stream as it is or does not read it, or what it reads
            is not the norm of a site that is there.
        ModelMismatch: a dictionary is another model's.

    Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024).

    >>> lk.circuits.mean_input_times_gradient(model, tc, 7, earlier, text, tokens=50_000).top(5)  # doctest: +SKIP
    """
    if any(site.name in ("mlp_post", "z") for site in earlier.writes):
        raise SiteUnavailable(f"{earlier!r} does not write the residual stream as it is.")
    weights = pulled_back(model, transcoder, feature, earlier, None)
    stream = _stream_before(model, transcoder.reads)
    chunks = chunks_of(model, texts, length, tokens).ids
    if chunks.shape[1] <= skip:
        raise ValueError(f"skip={skip} leaves nothing of chunks of {chunks.shape[1]} tokens.")
    sums = _Sums.of(earlier.n_features, weights.device)
    for batch in batches_of(model, chunks):
        run = model.run(batch, keep=[earlier.reads, transcoder.reads, stream], stop_at=transcoder.reads)
        here = {
            site: run[site][:, skip:].flatten(0, 1).to(weights.device)
            for site in (earlier.reads, transcoder.reads, stream)
        }
        scale = _restored(earlier, here[earlier.reads]) / _divided(
            model, transcoder, here[stream], here[transcoder.reads]
        )
        reached = transcoder.encode(here[transcoder.reads].to(transcoder.W_enc.device)).of(feature) != 0
        sums.add(earlier.encode(here[earlier.reads]), scale, reached.to(weights.device))
    return sums.result(weights, feature_name(transcoder, feature), earlier)


@dataclass
class _Sums:
    """Of each earlier feature, summed over tokens: its activation over what is held, and how often it is active."""

    everywhere: Tensor
    where_active: Tensor
    times: Tensor
    tokens: int = 0
    active: int = 0

    @classmethod
    def of(cls, n_features: int, device: torch.device) -> _Sums:
        nothing = torch.zeros(3, n_features, dtype=torch.float64, device=device)
        return cls(nothing[0], nothing[1], nothing[2])

    def add(self, codes: Codes, scale: Tensor, reached: Tensor) -> None:
        """Some tokens: what is active, what it is multiplied with (token,), and where the feature reached is active."""
        values = codes.values.double() * scale.double()[codes.tokens]
        chosen = reached[codes.tokens]
        self.everywhere.index_add_(0, codes.features, values)
        self.where_active.index_add_(0, codes.features[chosen], values[chosen])
        self.times.index_add_(0, codes.features, torch.ones_like(values))
        self.tokens, self.active = self.tokens + len(reached), self.active + int(reached.sum())

    def result(self, weights: Tensor, feature: str, earlier: Transcoder) -> InputTimesGradient:
        layer = layer_of(earlier)
        mean = _array(weights * self.everywhere / self.tokens)
        where_active = _array(weights * self.where_active / (self.active or torch.nan))
        frequency = _array(self.times / self.tokens)
        return InputTimesGradient(feature, layer, mean, where_active, frequency, self.tokens, self.active)


def _array(of: Tensor) -> np.ndarray:
    return of.float().cpu().numpy()


def _restored(earlier: Transcoder, x: Tensor) -> Tensor:
    """(token,): by what a dictionary that read `x` multiplies what its features write."""
    scale = earlier.normalised(earlier.checked(x)).scale if earlier.restores else None
    return x.new_ones(len(x)) if scale is None else scale[:, 0]


def _divided(model: Model, transcoder: Transcoder, stream: Tensor, x: Tensor) -> Tensor:
    """(token,): by what is divided between the residual stream and a dictionary's encoder, where it read `x`."""
    made = entering(model, transcoder.reads, stream)
    rounding = max(_ROUNDING, 4 * torch.finfo(x.dtype).eps)
    if not torch.allclose(made, x.to(made), rtol=rounding, atol=rounding * float(made.abs().max())):
        raise SiteUnavailable(
            f"{transcoder.reads} of {model.anatomy.family} is not what the norm before it makes of the residual stream "
            "at a site that is there: what it divides by cannot be held."
        )
    divided = norm_before(model, transcoder.reads).scale(stream)[:, 0]
    scale = transcoder.normalised(x).scale
    if scale is None:
        return divided
    return divided * (scale[:, 0] + (1e-5 if transcoder.normalise == "layer norm" else 0.0))


def _stream_before(model: Model, read: Site) -> Site:
    """Where the residual stream is that a site reads, at most through a norm."""
    if read.name == "attn_in":
        return Site("resid_pre", read.layer)
    if read.name != "mlp_in":
        return read
    return Site("resid_mid" if read.layer in model.anatomy.layers_of("resid_mid") else "resid_pre", read.layer)
