"""Path patching: what a sender does along one path alone, straight to its receivers, and what these do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.prefix import common_length
from lenskit.models.run import Run
from lenskit.models.running.which import Which, as_which, indices
from lenskit.patching.ablations import metrics_for, rows_of
from lenskit.patching.engine import Ends, Engine
from lenskit.patching.frozen import Frozen, sites_kept
from lenskit.patching.metrics import Metric
from lenskit.patching.nodes import Node, NodeLike, all_heads, all_mlps, as_nodes, check_nodes, heads_in
from lenskit.patching.pairs import Direction, Tokens, tokens_of
from lenskit.patching.receiving import Receiving, Through, reading
from lenskit.patching.swept import Axis, Sweep

if TYPE_CHECKING:
    from lenskit.models.model import Model

Senders = Literal["heads", "mlps"] | NodeLike | Iterable[NodeLike]


def path_patch(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    senders: Senders,
    receivers: NodeLike | Iterable[NodeLike],
    metric: Metric | Callable[[Run], Any] | Sequence[Metric],
    *,
    through: Through | Sequence[Through] = (),
    positions: Which = None,
    mlps: Literal["recompute", "freeze"] = "recompute",
    direction: Direction = "noise",
) -> Sweep:
    """Patch paths: each sender takes its value from the other prompt, and only the receivers are told.

    First every head but the sender is held at the value it has on the prompt that runs, and what arrives at the
    receivers is noted down. Then the prompt runs plainly, with that in the place of what the receivers would have read,
    and all that comes after them is computed anew. Each sender is a cell by itself; the receivers are given theirs
    together. Nothing mixes positions on a path that attention is held on, so it begins and ends at the same ones.

    Args:
        model: the model.
        clean, corrupt: one prompt each, of one length; or as many clean as corrupt ones, pair by pair.
        senders: "heads" (all of them), "mlps", or nodes: `"9.6"`, `"5.mlp"`, `"5.attn"` (a whole attention), `"embed"`.
        receivers: heads, which read `through` one or several of "q", "k" and "v"; MLPs; or `"logits"` by itself, for
            the direct effect.
        metric: what is measured; one, or one for each pair.
        positions: at which the paths run; by default all at which the prompts can differ.
        mlps: whether MLPs on the way see the change and pass it on ("recompute", as in the paper), or are held as the
            heads are ("freeze"), so that only the residual stream carries it.
        direction: "noise" runs the clean prompt and sends what the corrupt one says, as in the paper; "denoise" the
            other way round.

    Returns a `Sweep` over ("layer", "head") for all heads, ("layer",) for all MLPs, and ("span",) for chosen nodes, by
    their names; of several pairs with "pair" in front. A sender with no path to any receiver has exactly no effect.

    Raises:
        SiteUnavailable: a node is not there; the model's attention cannot be held; or some receivers share their keys
            or values with heads that are none, in several layers at once.
        PromptsDiffer: the prompts have different lengths.
        ValueError: the prompts are the same, heads receive through nothing, or "logits" receives among others.

    Sources: Wang et al., "Interpretability in the Wild" (2022), section 3.1; Goldowsky-Dill et al., "Localizing Model
    Behavior with Path Patching" (2023), where `mlps="freeze"` is a path of the residual stream alone.

    >>> lk.patching.path_patch(model, clean, corrupt, "heads", ["21.4", "24.0"], lk.logit_diff(" Mary", " John"),
    ...                        through="q", positions=-1)  # doctest: +SKIP
    """
    sending, axes = _senders(model, senders)
    ways = (through,) if isinstance(through, str) else tuple(through)
    asked = _Asked(
        model, sending, axes, _receivers(model, receivers, ways), ways, positions, mlps == "recompute", direction
    )
    rows = [rows_of(model, prompt) for prompt in (clean, corrupt)]
    if len(rows[0]) != len(rows[1]):
        raise ValueError(f"{len(rows[0])} clean prompts and {len(rows[1])} corrupt ones: each needs its partner.")
    metrics = metrics_for(metric, len(rows[0]))
    found = [asked.of(*pair) for pair in zip(*rows, metrics, strict=True)]
    return found[0] if len(found) == 1 else _stacked(found)


@dataclass(frozen=True)
class _Asked:
    """What is asked of each pair of prompts."""

    model: Model
    senders: Sequence[Node]
    axes: tuple[Axis, ...]
    receivers: tuple[Node, ...]
    through: tuple[Through, ...]
    positions: Which
    mlps: bool
    direction: Direction

    def of(self, clean: Tensor, corrupt: Tensor, metric: Metric) -> Sweep:
        """The paths of one pair."""
        tokens = tokens_of(self.model, clean, corrupt, self.direction)
        read = metric.read(tokens.base.shape[1])
        sites = list(reading(self.model, self.receivers))
        keep = sites_kept(self.model, self.senders, sites, self.mlps)
        runs = [self.model.run(each, keep=keep) for each in tokens]
        frozen = Frozen(self.model, runs[0], runs[1], self._positions(tokens, read), self.mlps)
        engine = Engine(self.model, tokens.base)
        ends = [engine.base(read), Ends(None, runs[1].logits[:, read])]
        bound = metric.bound(self.model, tokens.base, ends[self.direction == "denoise"])
        base, source = (float(bound.of(self.model, each)[0]) for each in ends)
        values = np.full(len(self.senders), base)
        for which, cells in Receiving(frozen, self.receivers, self.through).cells(self.senders):
            for chunk in engine.run(cells, read):
                if chunk is not None:
                    values[[which[i] for i in chunk.indices]] = bound.of(self.model, chunk.ends).double().cpu().numpy()
        laid_out = _laid_out(self.senders, values, self.axes)
        clean_value, corrupt_value = (source, base) if self.direction == "denoise" else (base, source)
        return Sweep(
            site=f"{', '.join(map(str, self.receivers))} {' '.join(self.through)}".strip(),
            axes=self.axes,
            values=laid_out,
            exact=~np.isnan(laid_out),
            clean=clean_value,
            corrupt=corrupt_value,
            metric=repr(metric),
            direction=self.direction,
            engine=engine.name,
            why=engine.why,
            provenance={**self.model.provenance, "question": self._question(clean, corrupt, frozen.pos)},
        )

    def _positions(self, tokens: Tokens, read: Sequence[int]) -> tuple[int, ...]:
        """Where the paths run. Raises `ValueError` for two prompts that are the same."""
        base, source = (each[0].tolist() for each in tokens)
        if base == source:
            raise ValueError("the two prompts are the same: nothing that a sender says could differ.")
        if self.positions is not None:
            return tuple(sorted(indices(as_which("positions", self.positions), len(base), "position")))
        places = tuple(range(common_length(base, source) if self.model.anatomy.causal else 0, len(base)))
        if self.receivers[0].kind != "logits":
            return places
        return tuple(place for place in places if place in read) or places  # no path leads elsewhere

    def _question(self, clean: Tensor, corrupt: Tensor, pos: Sequence[int]) -> dict[str, Any]:
        return {
            "clean": _text(self.model, clean),
            "corrupt": _text(self.model, corrupt),
            "receivers": [str(node) for node in self.receivers],
            "through": list(self.through),
            "pos": list(pos),
            "mlps": "recompute" if self.mlps else "freeze",
        }


def _stacked(found: Sequence[Sweep]) -> Sweep:
    """The sweeps of several pairs as one, with an axis for the pairs."""
    first, count = found[0], len(found)
    return replace(
        first,
        axes=(Axis("pair", tuple(range(count)), tuple(map(str, range(count)))), *first.axes),
        values=np.stack([each.values for each in found]),
        exact=np.stack([each.exact for each in found]),
        clean=np.array([each.clean for each in found]),
        corrupt=np.array([each.corrupt for each in found]),
        metric=", ".join(dict.fromkeys(each.metric for each in found)),
        provenance={**first.provenance, "question": [each.provenance["question"] for each in found]},
    )


def _senders(model: Model, senders: Senders) -> tuple[list[Node], tuple[Axis, ...]]:
    """The senders, and the axes of their sweep: a grid of all of a kind, or a list of nodes that name themselves."""
    if senders == "heads" or senders == "mlps":
        nodes = all_heads(model) if senders == "heads" else all_mlps(model)
        layers = sorted({node.layer for node in nodes})
        axes = (Axis("layer", tuple(layers), tuple(map(str, layers))),)
        if senders == "heads":
            heads = tuple(range(max(heads_in(model, layer) for layer in layers)))
            axes += (Axis("head", heads, tuple(map(str, heads))),)
        return nodes, axes
    nodes = list(as_nodes(senders))
    check_nodes(model, nodes)
    if not nodes or any(node.kind == "logits" for node in nodes):
        raise ValueError("senders are heads, MLPs, attentions or 'embed', at least one: senders='heads' for all heads.")
    return nodes, (Axis("span", tuple(range(len(nodes))), tuple(map(str, nodes))),)


def _laid_out(senders: Sequence[Node], values: np.ndarray, axes: tuple[Axis, ...]) -> np.ndarray:
    """The senders' values in the shape of the axes, nan for a head that a layer with fewer of them has not."""
    if len(axes) == 1:
        return values
    found = np.full([len(axis.ticks) for axis in axes], np.nan)
    for node, value in zip(senders, values, strict=True):
        found[axes[0].ticks.index(node.layer), node.head] = value
    return found


def _receivers(
    model: Model, receivers: NodeLike | Iterable[NodeLike], through: tuple[Through, ...]
) -> tuple[Node, ...]:
    nodes = as_nodes(receivers)
    check_nodes(model, nodes)
    kinds = {node.kind for node in nodes}
    if not nodes or kinds & {"attn", "embed"}:
        raise ValueError("receivers are heads '9.6' (with through=), MLPs '5.mlp', or 'logits', at least one.")
    if "logits" in kinds and len(nodes) > 1:
        raise ValueError("'logits' is a receiver by itself: what reaches it through other receivers is not direct.")
    if "head" in kinds and not (through and set(through) <= {"q", "k", "v"}):
        raise ValueError(f"through={through!r}: say by what heads receive, 'q', 'k' or 'v', or several of them.")
    if "head" not in kinds and through:
        raise ValueError(f"through={through!r} is for heads, and the receivers are {', '.join(map(str, nodes))}.")
    return nodes


def _text(model: Model, tokens: Tensor) -> str | list[int]:
    """The prompt as text, or as ids where there is no tokenizer."""
    ids = tokens[0].tolist()
    return ids if model.tokenizer is None else model.text.decode(ids)
