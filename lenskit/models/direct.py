"""Direct logit attribution: what each part of the model has itself written towards a token, past all later layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.sites import SiteUnavailable
from lenskit.models.weighing.norms import Norm, wide

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model

By = Literal["component", "head", "neuron"]

# Float32 sums of a few dozen vectors of very different size (an attention sink's) agree to about this.
_TOLERANCE = 2e-3


@dataclass(frozen=True, eq=False)
class DirectLogits:
    """The parts of a logit, or of a difference of two, that each component wrote directly. They sum to it.

    Attributes:
        labels: the parts' names: "embed", "0.attn", "0.mlp", ..., "18.attn.6" for a head, "20.mlp.1144" for a neuron,
            "bias" for what the final norm and the head add.
        values: (part, row), in logits.
        logit: (row,), the logit or the difference that the model itself gives (before a soft-cap).
        of: what was attributed, such as "' Mary' - ' John'".
        error: the largest difference between the sum of the parts and `logit`, relative to the largest part.
    """

    labels: tuple[str, ...]
    values: Tensor
    logit: Tensor
    of: str
    error: float
    provenance: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, label: str) -> Tensor:
        """One part, (row,)."""
        if label not in self.labels:
            raise KeyError(f"there is no part {label!r}. Parts are: {', '.join(self.labels[:6])}, ...")
        return self.values[self.labels.index(label)]

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The k parts with the largest mean effect in either direction, the largest first."""
        mean = self.values.mean(1)
        order = mean.abs().argsort(descending=True)[:k].tolist()
        return [(self.labels[i], float(mean[i])) for i in order]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each part and row: `part`, `row`, `logit`."""
        import pandas as pd

        rows = range(self.values.shape[1])
        return pd.DataFrame(
            [(label, row, float(self.values[i, row])) for i, label in enumerate(self.labels) for row in rows],
            columns=["part", "row", "logit"],
        )

    def figure(self, k: int = 20) -> go.Figure:
        """The k largest parts as bars, in the order in which the model writes them."""
        import plotly.graph_objects as go

        chosen = sorted((label for label, _ in self.top(k)), key=self.labels.index)
        means = [float(self[label].mean()) for label in chosen]
        colours = ["#3a86b7" if value >= 0 else "#d9782f" for value in means]
        figure = go.Figure(
            go.Bar(x=chosen, y=means, marker_color=colours, hovertemplate="%{x}: %{y:.2f}<extra></extra>")
        )
        title = f"direct effect on {self.of}, in logits"
        return figure.update_layout(
            yaxis={"title": title, "gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.5)"},
            height=360,
            margin={"t": 24},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": "#797c82"},  # to be read on a light page and on a dark one
        )

    def __repr__(self) -> str:
        best = ", ".join(f"{label} {value:+.2f}" for label, value in self.top(3))
        return f"DirectLogits({self.of}: {float(self.logit.mean()):+.2f} from {len(self.labels)} parts, {best}, ...)"


def direct_logits(
    model: Model,
    prompt: Prompt,
    token: str | int,
    versus: str | int | None = None,
    *,
    pos: int = -1,
    by: By = "component",
) -> DirectLogits:
    """Split a token's logit, or its lead over another's, into what each component, head or neuron wrote directly.

    The residual stream is the sum of what was written into it. The final norm's scale is held at its value on this
    very prompt, which makes the way from there to the logit linear, so the parts sum to the logit; this is checked.

    Args:
        prompt: as in `model.run`.
        token, versus: a text that is one token, or an id. With `versus`, the difference of the two logits.
        pos: the position whose next token is predicted; counted in each row, whatever the padding.
        by: "component" (embedding, each attention, each MLP), "head" (attention by head, its bias apart) or "neuron"
            (MLPs by neuron). Through a norm after attention or MLP, its scale is held as well.

    Raises:
        SiteUnavailable: the parts cannot be told apart in this architecture, or do not sum to the logit.
        ValueError, IndexError: a text that is not one token, a position that does not exist.

    Sources: nostalgebraist's logit lens (2020); Elhage et al., "A Mathematical Framework for Transformer Circuits"
    (2021); `logit_attrs` of TransformerLens.

    >>> parts = lk.direct_logits(model, "When Mary and John went ... gave a drink to", " Mary", " John", by="head")
    ... # doctest: +SKIP
    >>> parts.top(3)                                                                              # doctest: +SKIP
    """
    if by not in ("component", "head", "neuron"):
        raise ValueError(f"by={by!r}: the parts are 'component', 'head' or 'neuron'.")
    split = {"component": [], "head": ["z"], "neuron": ["mlp_post"]}[by]
    has_pos = "pos_embed" in model.sites
    stream = ["resid_pre", "attn_out", "mlp_out", ("resid_post", -1)]
    run = model.run(prompt, keep=[*stream, *(["pos_embed"] if has_pos else []), *split])
    here = _Here(run, pos)
    ids = [model.text.token(token)] + ([] if versus is None else [model.text.token(versus)])
    direction, bias = _direction(model, ids)
    norm = model.weights.norm("final_norm")
    last = here.at(run["resid_post", -1])
    through = _Held(norm, last)

    labels, vectors = _written(model, run, here, has_pos)
    values = through(vectors) @ direction
    if by != "component":
        labels, values = _split(model, run, here, by, labels, values, through, direction)
    constant = bias + (0.0 if norm.bias is None else float(norm.bias @ direction))
    values = torch.cat([values, values.new_full((1, values.shape[1]), constant)])
    logit = _own_logit(model, run, here, ids)
    of = repr(_name(model, ids[0])) + ("" if versus is None else f" - {_name(model, ids[1])!r}")
    error = float((values.sum(0) - logit).abs().max() / values.abs().max().clamp_min(1e-6))
    if error > _TOLERANCE:
        raise SiteUnavailable(
            f"the parts of {of} do not sum to the logit in {model.anatomy.family} (off by {error:.1e} of the largest "
            "part): something else writes to the residual stream. model.check() may tell what."
        )
    return DirectLogits((*labels, "bias"), values, logit, of, error, run.provenance)


class _Here:
    """One position of each row."""

    def __init__(self, run: Run, pos: int) -> None:
        rows, length = run.tokens.shape
        real = torch.ones(rows, length) if run.mask is None else run.mask
        self._columns = list[int]()
        for row in real:
            places = row.nonzero()[:, 0].tolist()
            if not -len(places) <= pos < len(places):
                raise IndexError(f"pos {pos} does not exist: a prompt here has {len(places)} tokens.")
            self._columns.append(places[pos])

    def at(self, tensor: Tensor) -> Tensor:
        """(row, ...) of a site's tensor (batch, pos, ...)."""
        tensor = tensor.expand(len(self._columns), *tensor.shape[1:])  # position embeddings are one for all rows
        return wide(tensor[torch.arange(len(self._columns)), self._columns])


@dataclass(frozen=True)
class _Held:
    """A norm whose scale is held at what it was for `x` (row, d_model): a linear map."""

    norm: Norm
    x: Tensor

    def __call__(self, parts: Tensor) -> Tensor:
        """`parts` (..., row, d_model), or one more axis behind the row."""
        scale = self.norm.scale(self.x)
        if self.norm.centres:
            parts = parts - parts.mean(-1, keepdim=True)
        parts = parts / scale
        return parts if self.norm.gain is None else parts * self.norm.gain


def _direction(model: Model, ids: list[int]) -> tuple[Tensor, float]:
    """The direction (d_model,) in what the head reads, and the constant that is added."""
    columns = wide(model.weights.W_U[:, ids])
    biases = wide(model.weights.b_U[ids])
    if len(ids) == 1:
        return columns[:, 0], float(biases[0])
    return columns[:, 0] - columns[:, 1], float(biases[0] - biases[1])


@torch.no_grad()
def _own_logit(model: Model, run: Run, here: _Here, ids: list[int]) -> Tensor:
    """(row,): what the model itself gives, but for a soft-cap, through which nothing sums."""
    tail = model.anatomy.tail
    if tail.softcap is None:
        logits = here.at(run.logits)
    else:
        last = here.at(run["resid_post", -1]).to(model.dtype)
        logits = wide(tail.head(tail.normed(last))) * tail.scale
    return logits[:, ids[0]] if len(ids) == 1 else logits[:, ids[0]] - logits[:, ids[1]]


def _written(model: Model, run: Run, here: _Here, has_pos: bool) -> tuple[list[str], Tensor]:
    """(part, row, d_model): everything that was written into the residual stream, in order."""
    first = here.at(run["resid_pre", 0])
    labels, vectors = ["embed"], [first]
    if has_pos:
        positions = here.at(run["pos_embed"])
        labels, vectors = ["embed", "pos_embed"], [first - positions, positions]
    for layer in range(model.n_layers):
        labels += [f"{layer}.attn", f"{layer}.mlp"]
        vectors += [here.at(run["attn_out", layer]), here.at(run["mlp_out", layer])]
    return labels, torch.stack(vectors)


def _split(
    model: Model,
    run: Run,
    here: _Here,
    by: By,
    labels: list[str],
    values: Tensor,
    through: _Held,
    direction: Tensor,
) -> tuple[list[str], Tensor]:
    """The components' values, with attention by head or the MLPs by neuron, and each one's bias apart."""
    kind, site, name = ("attn", "z", "O") if by == "head" else ("mlp", "mlp_post", "out")
    new_labels, new_values = list[str](), list[Tensor]()
    for i, label in enumerate(labels):
        layer, _, part = label.partition(".")
        if part != kind:
            new_labels.append(label)
            new_values.append(values[i : i + 1])
            continue
        inner = here.at(run[site, int(layer)])
        weight = getattr(model.weights, f"W_{name}")[int(layer)]
        bias = getattr(model.weights, f"b_{name}")[int(layer)]
        # Past the weights everything is linear: turn the direction back through it, once, instead of every part.
        back = _pulled_back(model, kind, int(layer), run, here, through, direction)
        at_write = torch.einsum("...e,re->...r", wide(weight), back)
        parts = torch.einsum("rhd,hdr->hr", inner, at_write) if by == "head" else inner.T * at_write
        new_labels += [f"{label}.{n}" for n in range(len(parts))] + [f"{label}.bias"]
        new_values += [parts, (back @ wide(bias))[None]]
    return new_labels, torch.cat(new_values)


def _pulled_back(
    model: Model, kind: str, layer: int, run: Run, here: _Here, through: _Held, direction: Tensor
) -> Tensor:
    """(row, d_model): the direction at a layer's output projection that leads to the logit, with all norms held."""
    rows = through.x.shape[0]
    with torch.enable_grad():
        probe = torch.zeros(rows, through.x.shape[1], requires_grad=True, device=through.x.device)
        writer = model.weights.found.parts.writer("W_O" if kind == "attn" else "W_out", layer)
        written = probe
        if writer.post_norm is not None:
            before = here.at(_before_post_norm(model, kind, layer, run))
            written = _Held(writer.post_norm, before)(probe) * writer.factor
        return torch.autograd.grad((through(written) @ direction).sum(), probe)[0]


def _before_post_norm(model: Model, kind: str, layer: int, run: Run) -> Tensor:
    """What enters the norm that stands behind attention or MLP: their output projection's result."""
    site, name = ("z", "O") if kind == "attn" else ("mlp_post", "out")
    inner = wide(run[site, layer])
    inner = inner.flatten(2)
    weight = wide(getattr(model.weights, f"W_{name}")[layer])
    return inner @ weight.reshape(-1, weight.shape[-1]) + wide(getattr(model.weights, f"b_{name}")[layer])


def _name(model: Model, token: int) -> str:
    piece = model.text.pieces([token])[0]
    return piece if isinstance(piece, str) else repr(piece)
