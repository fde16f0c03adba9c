"""Evaluate: how well lenses read a text, layer by layer, against each other and the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenskit.lenses.evaluation import Evaluation, PerLayer, Transfer
from lenskit.lenses.marginals import Summing
from lenskit.lenses.reading import carry, columns_of, following, of_rows, rows_of
from lenskit.lenses.readout import Asked, Columns, read_out
from lenskit.models.corpus import CHUNK, Texts, chunks_of
from lenskit.models.steps import finish

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.models.model import Model

_AT_ONCE = 256  # tokens in a forward: what waits for the weights waits once for all of them


def evaluate(
    lenses: Lens | Sequence[Lens] | Mapping[str, Lens],
    texts: Texts,
    *,
    tokens: int | None = 16_384,
    chunk: int = CHUNK,
    transfer: int = 0,
    marginals: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Evaluation:
    """Measure lenses of one model on a text: cross-entropy, KL, entropy and accuracy of every layer.

    Args:
        lenses: one lens or several; as a mapping, with the names to report them by.
        texts: a text, texts, rows of a data set with a `text`, `Chunks`, or token ids (n,) or (chunk, pos).
        tokens: how many to read at most; None for all.
        chunk: how many tokens the model reads at once.
        transfer: on how many tokens to measure every layer's lens on every other layer's states; 0 for not at all. It
            costs as many readings as there are layers: a hundred tokens tell enough.
        marginals: sum up what each layer predicts on the whole, which costs two more products.
        progress: called with the share done after each batch.

    Memory: that of a forward of 256 tokens and about 20 MB; with `marginals`, 16 bytes for each layer and token of the
    vocabulary. Raises `ValueError` for lenses of different models or of one name.
    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens" (2023).

    >>> evaluate([lk.LogitLens(model), tuned], text).to_pandas()  # doctest: +SKIP
    """
    named = _named(lenses)
    model = next(iter(named.values())).model
    chunks = chunks_of(model, texts, chunk, tokens)
    sums = {name: _Sums(lens) for name, lens in named.items()}
    totals = dict[str, Summing]()
    across = {name: _Across(lens) for name, lens in named.items() if transfer}
    seen = 0
    for part in _batches(model, chunks.ids, {lens.site for lens in named.values()}):
        for name, lens in named.items():
            rows = rows_of(lens)[:-1]
            states = of_rows(part.states[lens.site], rows)
            columns = finish(columns_of(lens, states, part.logits, Asked(1, following=part.following)))
            sums[name].add(columns, part.following)
            if marginals:
                if name not in totals:  # only now it is known how wide the logits are
                    totals[name] = Summing(names_of(lens), part.logits.shape[1])
                with torch.no_grad():
                    totals[name].add(carry(lens, states, rows), part.logits, model.anatomy.tail)
            if seen < transfer:
                across[name].add(states, part, transfer - seen)
        seen += len(part.following)
        if progress is not None:
            progress(seen / chunks.ids.numel())
    return Evaluation(
        {name: each.result() for name, each in sums.items()},
        seen,
        chunks.bytes_per_token,
        {name: each.result() for name, each in across.items()},
        {name: each.result() for name, each in totals.items()},
        model.provenance,
    )


def names_of(lens: Lens) -> list[str]:
    """What to call each row of a lens's reading: `0`, `1`, ..., and `final` where the model's own is one more."""
    rows = rows_of(lens)
    own = [str(site.layer) for site in rows[:-1]]
    return [*own, str(rows[-1].layer) if lens.site == "resid_post" else "final"]


class Part(NamedTuple):
    """Some chunks that have run: states by site (row, pos, d_model), logits (pos, vocab), what follows each (pos,)."""

    states: dict[str, Tensor]
    logits: Tensor
    following: Tensor


def _batches(model: Model, ids: Tensor, sites: set[str]) -> Iterator[Part]:
    """The chunks in batches, one position after another."""
    at_once = max(1, _AT_ONCE // ids.shape[1])
    for start in range(0, len(ids), at_once):
        run = model.run(ids[start : start + at_once], keep=sorted(sites))
        states = {site: run[site].flatten(1, 2) for site in sites}
        yield Part(states, run.logits.flatten(0, 1), torch.cat([following(row) for row in run.tokens]))


def _named(lenses: Lens | Sequence[Lens] | Mapping[str, Lens]) -> dict[str, Lens]:
    if isinstance(lenses, Mapping):
        named = dict(lenses)
    else:
        several = list(lenses) if isinstance(lenses, Sequence) else [lenses]
        named = {lens.name: lens for lens in several}
        if len(named) < len(several):
            names = ", ".join(lens.name for lens in several)
            raise ValueError(f"several of these lenses have one name: {names}. Give a mapping from names to lenses.")
    if not named:
        raise ValueError("there is no lens to evaluate.")
    if len({id(lens.model.anatomy.model) for lens in named.values()}) > 1:
        raise ValueError("these lenses belong to different models: evaluate them one by one.")
    return named


class _Sums:
    """The sums over all positions that become a lens's averages, in float64."""

    def __init__(self, lens: Lens) -> None:
        self.site, self.names = lens.site, names_of(lens)
        rows = len(self.names)
        self.ce, self.kl, self.entropy, self.right, self.agree = (np.zeros(rows) for _ in range(5))
        self.count = self.followed = 0

    def add(self, columns: Columns, following: Tensor) -> None:
        """Tell of what was read at some positions."""
        top, follows = columns.top_ids[..., 0], following.cpu().numpy()
        there = follows >= 0
        assert columns.following_log_prob is not None
        self.ce -= columns.following_log_prob[there].sum(0, dtype=np.float64)
        self.kl += columns.kl.sum(0, dtype=np.float64)
        self.entropy += columns.entropy.sum(0, dtype=np.float64)
        self.right += (top == follows[:, None])[there].sum(0)
        self.agree += (top == top[:, -1:]).sum(0)
        self.count += len(top)
        self.followed += int(there.sum())

    def result(self) -> PerLayer:
        per_text, per_next = 1 / self.count, 1 / max(1, self.followed)
        return PerLayer(
            self.site,
            self.names,
            self.ce * per_next,
            self.kl * per_text,
            self.entropy * per_text,
            self.right * per_next,
            self.agree * per_text,
        )


class _Across:
    """The sums of every layer's lens on every layer's states."""

    def __init__(self, lens: Lens) -> None:
        self.lens, self.sites = lens, rows_of(lens)[:-1]
        self.ce, self.kl = (np.zeros((len(self.sites), len(self.sites))) for _ in range(2))
        self.count = self.followed = 0

    def add(self, states: Tensor, part: Part, at_most: int) -> None:
        """Tell of some positions, the first `at_most` of them."""
        tail, states = self.lens.model.anatomy.tail, states[:, :at_most]
        following, logits = part.following[:at_most], part.logits[:at_most]
        there = following.cpu().numpy() >= 0
        # A lens that changes nothing reads the same in the name of every layer.
        h = states[0]
        alike = all(self.lens.transport(h, site) is h for site in self.sites)
        for at, site in enumerate(self.sites[:1] if alike else self.sites):
            which = slice(None) if alike else at
            with torch.no_grad():
                carried = carry(self.lens, states, [site] * len(states))
                columns = finish(read_out(carried, logits, tail, Asked(1, following=following)))
            assert columns.following_log_prob is not None
            self.ce[which] -= columns.following_log_prob[there, :-1].sum(0, dtype=np.float64)
            self.kl[which] += columns.kl[:, :-1].sum(0, dtype=np.float64)
        self.count += len(there)
        self.followed += int(there.sum())

    def result(self) -> Transfer:
        names = [str(site.layer) for site in self.sites]
        return Transfer(names, self.ce / max(1, self.followed), self.kl / self.count, self.count)
