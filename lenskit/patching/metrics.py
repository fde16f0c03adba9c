"""Metrics: what of the model's prediction is measured after each patch, as small frozen values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenskit.models.run import Run
from lenskit.patching.engines.ends import Ends

if TYPE_CHECKING:
    from lenskit.models.model import Model

Token = str | int

# How many logits are held at once.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Metric:
    """A number that is read off the prediction at one position.

    pos: the position whose next token is predicted, by default the last one.
    """

    _: KW_ONLY
    pos: int = -1

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens that it is about."""
        return ()

    @property
    def needs_all(self) -> bool:
        """Whether it needs the logits of the whole vocabulary."""
        return True

    def read(self, length: int) -> list[int]:
        """The positions of a prompt of this length that it reads. Raises `IndexError` for one that does not exist."""
        if not -length <= self.pos < length:
            raise IndexError(f"{self!r} reads position {self.pos}, and the prompt has {length} tokens.")
        return [self.pos % length]

    def bound(self, model: Model, tokens: Tensor, clean: Ends) -> Metric:
        """The metric with all it must know of the question: ids for texts, and the clean prompt's prediction.

        tokens: of the prompt that is patched, (1, pos). Raises `ValueError` for a text that is not one token.
        """
        self.read(tokens.shape[1])
        _ids(model, self.tokens)
        return self

    def number(self, logits: Tensor, ids: list[int]) -> Tensor:
        """(cell,) from logits (cell, vocab), or of the metric's tokens alone (cell, token) where it needs no more."""
        raise NotImplementedError

    @torch.no_grad()
    def of(self, model: Model, ends: Ends) -> Tensor:
        """(cell,) values at the ends of a number of cells, read at this metric's own position."""
        ids = _ids(model, self.tokens)
        if not self.needs_all:
            return self.number(scores_of(model, ends, ids)[:, 0], list(range(len(ids))))
        blocks = [self.number(logits[:, 0], ids) for logits in _in_blocks(model, ends)]
        return torch.cat(blocks)

    def differentiable(self, run: Run) -> Tensor:
        """The same of a run, as a scalar with gradients: the sum over its rows. For `model.run(grads=...)`."""
        ids = run.text.tokens(list(self.tokens))
        logits = run.logits[:, self.pos].float()
        if not self.needs_all:
            return self.number(logits[:, ids], list(range(len(ids)))).sum()
        return self.number(logits, ids).sum()

    def _written(self, *what: object) -> str:
        parts = [repr(each) for each in what] + ([] if self.pos == -1 else [f"pos={self.pos}"])
        return f"({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class LogitDiff(Metric):
    """See `logit_diff`."""

    a: tuple[Token, ...]
    b: tuple[Token, ...]

    @property
    def tokens(self) -> tuple[Token, ...]:
        return (*self.a, *self.b)

    @property
    def needs_all(self) -> bool:
        return False

    def number(self, logits: Tensor, ids: list[int]) -> Tensor:
        half = len(self.a)
        return (logits[:, ids[:half]] - logits[:, ids[half:]]).mean(1)

    def __repr__(self) -> str:
        sides = (side[0] if len(side) == 1 else list(side) for side in (self.a, self.b))
        return f"logit_diff{self._written(*sides)}"


@dataclass(frozen=True, repr=False)
class LogProb(Metric):
    """See `log_prob`."""

    token: Token

    @property
    def tokens(self) -> tuple[Token, ...]:
        return (self.token,)

    def number(self, logits: Tensor, ids: list[int]) -> Tensor:
        return logits[:, ids[0]] - logits.logsumexp(-1)

    def __repr__(self) -> str:
        return f"log_prob{self._written(self.token)}"


@dataclass(frozen=True, repr=False)
class Prob(LogProb):
    """See `prob`."""

    def number(self, logits: Tensor, ids: list[int]) -> Tensor:
        return super().number(logits, ids).exp()

    def __repr__(self) -> str:
        return f"prob{self._written(self.token)}"


@dataclass(frozen=True, repr=False)
class Rank(LogProb):
    """See `rank`."""

    def number(self, logits: Tensor, ids: list[int]) -> Tensor:
        return (logits > logits[:, ids]).sum(-1).float()

    def differentiable(self, run: Run) -> Tensor:
        raise TypeError(f"{self!r} has no gradient, since ranks move in steps: estimate with log_prob or logit_diff.")

    def __repr__(self) -> str:
        return f"rank{self._written(self.token)}"


@dataclass(frozen=True, repr=False)
class KL(Metric):
    """See `kl`. `reference`: the log-probabilities (vocab,) that it measures from, once it is bound."""

    reference: Tensor | None = field(default=None, compare=False)

    def bound(self, model: Model, tokens: Tensor, clean: Ends) -> Metric:
        self.read(tokens.shape[1])
        with torch.no_grad():
            return replace(self, reference=scores_of(model, clean)[0, 0].log_softmax(-1))

    def number(self, logits: Tensor, ids: list[int]) -> Tensor:
        if self.reference is None:
            raise ValueError("kl() measures from the clean prompt's prediction: bind it first, metric.bound(...).")
        reference = self.reference.to(logits.device)
        return (reference.exp() * (reference - logits.log_softmax(-1))).nansum(-1)

    def __repr__(self) -> str:
        return f"kl{self._written()}"


@dataclass(frozen=True, repr=False)
class Function(Metric):
    """A metric of your own: any function of a `Run` that gives one number. It sees the logits at all positions."""

    fn: Callable[[Run], Any]
    prompt: Tensor | None = field(default=None, compare=False)

    def read(self, length: int) -> list[int]:
        return list(range(length))

    def bound(self, model: Model, tokens: Tensor, clean: Ends) -> Metric:
        return replace(self, prompt=tokens)

    @torch.no_grad()
    def of(self, model: Model, ends: Ends) -> Tensor:
        if self.prompt is None:
            raise ValueError(f"{self!r} is given a run with the prompt's tokens: bind it first, metric.bound(...).")
        origin = model.origin(model.edits)
        numbers = list[float]()
        for cell in range(len(ends.values)):
            logits = scores_of(model, _some(ends, slice(cell, cell + 1)))
            made = self.fn(Run(logits, self.prompt, None, {}, origin, model.text))
            if isinstance(made, Tensor) and made.numel() != 1:
                raise TypeError(f"{self!r} must give one number, and gave a tensor of shape {tuple(made.shape)}.")
            numbers.append(float(made))
        return torch.tensor(numbers)

    def differentiable(self, run: Run) -> Tensor:
        return self.fn(run)

    def __repr__(self) -> str:
        return getattr(self.fn, "__qualname__", type(self.fn).__name__)


def logit_diff(a: Token | Sequence[Token], b: Token | Sequence[Token], *, pos: int = -1) -> Metric:
    """How far the logit of `a` is above that of `b`. Of two lists of one length, the mean over the pairs.

    Only these tokens' rows of the unembedding are computed. A token is a text that is exactly one token, or an id;
    `pos` is the position whose next token is predicted, by default the last.

    Source: Wang et al., "Interpretability in the Wild" (2022).

    >>> logit_diff(" Mary", " John")
    logit_diff(' Mary', ' John')
    """
    first, second = _several(a), _several(b)
    if len(first) != len(second) or not first:
        raise ValueError(f"logit_diff pairs its tokens: {len(first)} on one side, {len(second)} on the other.")
    return LogitDiff(first, second, pos=pos)


def prob(token: Token, *, pos: int = -1) -> Metric:
    """The probability of a token, from 0 to 1. Arguments as in `logit_diff`."""
    return Prob(_one(token), pos=pos)


def log_prob(token: Token, *, pos: int = -1) -> Metric:
    """The log-probability of a token, in nats. Arguments as in `logit_diff`."""
    return LogProb(_one(token), pos=pos)


def rank(token: Token, *, pos: int = -1) -> Metric:
    """How many tokens are likelier than this one; 0 is first. It has no gradient. Arguments as in `logit_diff`."""
    return Rank(_one(token), pos=pos)


def kl(*, pos: int = -1) -> Metric:
    """KL(clean || patched) in nats: how much of the clean prompt's prediction is lost. 0 is none."""
    return KL(pos=pos)


def as_metric(what: Metric | Callable[[Run], Any]) -> Metric:
    """A metric, of a function of a run too. Raises `TypeError` for what is neither."""
    if isinstance(what, Metric):
        return what
    if not callable(what) or isinstance(what, type):
        raise TypeError(
            f"{what!r} is no metric. Metrics are logit_diff, prob, log_prob, rank and kl, or a function of a run that "
            "gives a number: lambda run: run.logits[0, -1, 42]."
        )
    return Function(what)


def scores_of(model: Model, ends: Ends, tokens: Sequence[int] | None = None) -> Tensor:
    """Logits (cell, read, vocab) at the ends of cells, or of some tokens only, (cell, read, token); in float32.

    Where the head is a plain linear map, only these tokens' rows of it are multiplied.
    """
    if ends.resid is None:
        assert ends.logits is not None
        return (ends.logits if tokens is None else ends.logits[..., list(tokens)]).float()
    tail = model.anatomy.tail
    hidden = tail.normed(ends.resid)
    if tokens is None:
        return tail.finish(tail.head(hidden)).float()
    head = tail.head
    if isinstance(head, nn.Linear) and _is_plain(head):
        chosen = torch.as_tensor(list(tokens), device=head.weight.device)
        bias = None if head.bias is None else head.bias[chosen]
        return tail.finish(functional.linear(hidden, head.weight[chosen], bias)).float()
    return tail.finish(head(hidden)[..., list(tokens)]).float()


def _is_plain(head: nn.Linear) -> bool:
    """Whether nothing stands between a linear head and its weight: no subclass, hook, offloading or quantisation."""
    return (
        type(head) is nn.Linear
        and "forward" not in vars(head)
        and not head._forward_hooks
        and not head._forward_pre_hooks
        and head.weight.device.type != "meta"
    )


def _in_blocks(model: Model, ends: Ends) -> Iterator[Tensor]:
    """Logits (cell, read, vocab), some cells at a time."""
    step = max(1, _BLOCK // (ends.values.shape[1] * model.anatomy.vocab))
    for start in range(0, len(ends.values), step):
        yield scores_of(model, _some(ends, slice(start, start + step)))


def _some(ends: Ends, which: slice) -> Ends:
    """Some of the cells' ends."""
    resid, logits = (None if each is None else each[which] for each in (ends.resid, ends.logits))
    return replace(ends, resid=resid, logits=logits)


def _ids(model: Model, tokens: Sequence[Token]) -> list[int]:
    ids = model.text.tokens(tokens)
    for i in ids:
        if not 0 <= i < model.anatomy.vocab:
            raise ValueError(f"there is no token {i}: the vocabulary has ids 0 to {model.anatomy.vocab - 1}.")
    return ids


def _one(token: Token) -> Token:
    if isinstance(token, bool) or not (isinstance(token, str) or hasattr(token, "__index__")):
        raise TypeError(f"a token is a text or an id, and not {token!r}.")
    return token if isinstance(token, str) else int(token)


def _several(tokens: Token | Sequence[Token]) -> tuple[Token, ...]:
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        return (_one(tokens),)
    return tuple(map(_one, tokens))
