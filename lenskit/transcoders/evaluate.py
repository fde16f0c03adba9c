"""Evaluation: what a model still knows with dictionaries in it, beside what it knows without those sites at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.edits import Edit, Set, Zero
from lenskit.models.model import Model
from lenskit.models.run import Run
from lenskit.transcoders.splicing import spliced
from lenskit.transcoders.training import solve_ridge
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd

_TOGETHER = 1024  # tokens in one forward, at most
_LOGITS = 64 << 20  # numbers: the logits of one forward, two of which are in memory, whatever the text and vocabulary
_COMPARED = 8 << 20  # numbers: the logits that are looked at as float64, at once


@dataclass(frozen=True)
class Fit:
    """How well one dictionary imitates its site.

    Attributes:
        explained: the share of the written site's variance about its mean, for each site written.
        linear: the same for the best linear map from what it reads to what it writes, fitted on these very tokens.
        active: how many features of a token are active, on average: L0.
        dead: the share of the features that were active nowhere.
    """

    explained: tuple[float, ...]
    linear: tuple[float, ...]
    active: float
    dead: float


@dataclass(frozen=True)
class Evaluation:
    """What became of a model's predictions, in nats per token.

    Attributes:
        names: "original", "spliced", "mean ablated" and "zero ablated".
        loss: the cross-entropy of the next token, of each.
        kl: the divergence from the original's prediction, of each.
        fits: for each dictionary, how well it imitates.
        tokens: how many predictions were looked at.
    """

    names: tuple[str, ...]
    loss: tuple[float, ...]
    kl: tuple[float, ...]
    fits: tuple[Fit, ...]
    tokens: int
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def recovered(self) -> float:
        """The share of the loss that mean ablation costs which the dictionaries spare: 1 is all of it."""
        return (self.loss[2] - self.loss[1]) / (self.loss[2] - self.loss[0])

    def to_pandas(self) -> pd.DataFrame:
        """One line for each: `model`, `loss`, `kl`."""
        import pandas as pd

        return pd.DataFrame({"model": self.names, "loss": self.loss, "kl": self.kl})

    def __repr__(self) -> str:
        loss = ", ".join(f"{name} {value:.3f}" for name, value in zip(self.names, self.loss, strict=True))
        return f"Evaluation({self.tokens:,} tokens; loss: {loss}; recovered {self.recovered:.1%})"


@torch.no_grad()
def evaluate(
    model: Model,
    transcoders: Transcoder | Sequence[Transcoder],
    texts: Texts,
    *,
    tokens: int | None = None,
    length: int = 128,
    skip: int = 1,
) -> Evaluation:
    """Splice dictionaries into a model and see what becomes of its predictions, beside mean and zero ablation.

    Args:
        model, transcoders: the model, and what is put into it, together.
        texts: texts, rows of a data set or token ids, that no dictionary was trained on.
        tokens: how many to read; None for all.
        length: how many tokens are read together.
        skip: how many tokens at the beginning of each are left as the model has them, and not looked at: dictionaries
            are trained without the first, which is like nothing else.

    Raises what `model.run` raises, and `ValueError` where there is not one chunk of text.

    >>> evaluate(model, tc, held_out)                                          # doctest: +SKIP
    Evaluation(4,064 tokens; loss: original 3.412, spliced 3.571, ...; recovered 88.1%)
    """
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    ids = chunks_of(model, texts, length, tokens).ids
    pos, batches = slice(skip, None), batches_of(model, ids)
    fits = [_Fitting(each) for each in given]
    for batch in batches:
        run = model.run(batch, keep=[*{site for each in given for site in (each.reads, *each.writes)}])
        for fitting in fits:
            fitting.add(run, skip)
    sites = {site: fitting.mean(write) for fitting in fits for write, site in enumerate(fitting.tc.writes)}
    edits: dict[str, list[Edit]] = {
        "spliced": [replace(edit, pos=pos) for edit in spliced(given)],
        "mean ablated": [Set(site.name, mean, layers=site.layer, pos=pos) for site, mean in sites.items()],
        "zero ablated": [Zero(site.name, layers=site.layer, pos=pos) for site in sites],
    }
    losses, kls, count = dict.fromkeys(["original", *edits], 0.0), dict.fromkeys(["original", *edits], 0.0), 0
    for batch in batches:
        truth = model.run(batch).logits
        count += batch.shape[0] * (batch.shape[1] - 1 - skip)
        losses["original"] += cross_entropy(truth, batch, skip)
        for name, some in edits.items():
            logits = model.run(batch, edits=some).logits
            losses[name] += cross_entropy(logits, batch, skip)
            kls[name] += _kl(truth, logits, skip)
            del logits
    return Evaluation(
        tuple(losses),
        tuple(each / count for each in losses.values()),
        tuple(each / count for each in kls.values()),
        tuple(fitting.result() for fitting in fits),
        count,
        {**model.provenance, "tokens": ids.numel(), "transcoders": [repr(each) for each in given]},
    )


def batches_of(model: Model, ids: Tensor) -> tuple[Tensor, ...]:
    """Chunks (chunk, pos), as many at once as their logits are of bounded size."""
    vocab = model.anatomy.vocab if model.anatomy.is_language_model else 1
    return ids.split(max(1, min(_TOGETHER, _LOGITS // vocab) // ids.shape[1]))


class _Fitting:
    """One dictionary's sums over what it read and wrote."""

    def __init__(self, tc: Transcoder) -> None:
        self.tc, self.tokens, self.active = tc, 0, 0
        self.fired = torch.zeros(tc.n_features, dtype=torch.bool)
        self.missed = [0.0 for _ in tc.writes]
        self.moments = [Moments(tc.d_in, tc.d_out) for _ in tc.writes]
        self.sums: list[Tensor | float] = [0.0 for _ in tc.writes]

    def add(self, run: Run, skip: int) -> None:
        x = run[self.tc.reads][:, skip:].flatten(2).flatten(0, 1)
        codes = self.tc.encode(x)
        self.fired[codes.features.cpu()] = True
        self.active += len(codes.features)
        self.tokens += len(x)
        for write, site in enumerate(self.tc.writes):
            whole = run[site][:, skip:].flatten(0, 1)
            self.sums[write] += whole.double().cpu().sum(0)
            y = whole.flatten(1)
            if self.tc.centred_output:
                y = y - y.mean(-1, keepdim=True)
            self.missed[write] += float((y - self.tc.written(x, write).view_as(y)).double().square().sum())
            self.moments[write].add(x, y)

    def mean(self, write: int) -> Tensor:
        """Of what stands at a written site, as it is laid out there."""
        return torch.as_tensor(self.sums[write] / self.tokens).float()

    def result(self) -> Fit:
        spread = [moments.spread for moments in self.moments]
        return Fit(
            tuple(1 - missed / all_ for missed, all_ in zip(self.missed, spread, strict=True)),
            tuple(moments.explained_by_a_linear_map() for moments in self.moments),
            self.active / self.tokens,
            1 - float(self.fired.double().mean()),
        )


class Moments:
    """Sums of products over a stream of pairs (token, d_in), (token, d_out), in float64."""

    def __init__(self, d_in: int, d_out: int) -> None:
        self.n = 0
        self.xx, self.xy = torch.zeros(d_in, d_in).double(), torch.zeros(d_in, d_out).double()
        self.x, self.y, self.yy = torch.zeros(d_in).double(), torch.zeros(d_out).double(), 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Tell of some tokens."""
        x, y = x.double().cpu(), y.double().cpu()
        self.n += len(x)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.yy += float(y.square().sum())

    @property
    def spread(self) -> float:
        """The sum of squares of y about its mean."""
        return self.yy - float(self.y.square().sum()) / self.n

    def explained_by_a_linear_map(self) -> float:
        """The share of the spread that ridge regression on x explains."""
        xx = self.xx - torch.outer(self.x, self.x) / self.n
        xy = self.xy - torch.outer(self.x, self.y) / self.n
        solved = solve_ridge(xx, xy)
        left = self.spread - 2 * float((solved * xy).sum()) + float((solved * (xx @ solved)).sum())
        return 1 - left / self.spread


def cross_entropy(logits: Tensor, ids: Tensor, skip: int) -> float:
    """The summed cross-entropy of the next tokens of ids (batch, pos) after the first `skip`, in nats."""
    total = 0.0
    for rows, following in zip(_predictions(logits, skip), ids[:, skip + 1 :].to(logits.device), strict=True):
        for some, theirs in zip(_blocks(rows), following.split(_rows(logits)), strict=True):
            total += float(torch.nn.functional.cross_entropy(some.double(), theirs, reduction="sum"))
    return total


def _kl(truth: Tensor, logits: Tensor, skip: int) -> float:
    """The summed divergence from one prediction to another, in nats."""
    total = 0.0
    for rows, others in zip(_predictions(truth, skip), _predictions(logits, skip), strict=True):
        for p, q in zip(_blocks(rows), _blocks(others), strict=True):
            log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
            log_q.neg_().add_(log_p)
            total += float((log_p.exp_() * log_q).sum())
    return total


def _predictions(logits: Tensor, skip: int) -> Tensor:
    """(batch, pos, vocab): what is compared: flattened, it would be a copy of all."""
    return logits[:, skip:-1]


def _rows(logits: Tensor) -> int:
    return max(1, _COMPARED // logits.shape[-1])


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(_rows(rows))
