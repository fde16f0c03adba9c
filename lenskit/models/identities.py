"""Identities: what must hold between the sites of a model, measured one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lenskit.models.batch import Prompt
from lenskit.models.edits import Call
from lenskit.models.finding.placed import is_plain
from lenskit.models.finding.ragged import Side
from lenskit.models.run import Run
from lenskit.models.sites import LAYERED, NAMES, SINGLE, Site, SiteUnavailable
from lenskit.models.taps import Point, Taker, tapped

if TYPE_CHECKING:
    from lenskit.models.model import Model

_LENGTH = 12
UNSTEADY = (
    "its numbers depend on how many tokens follow: what it chooses (keys, experts) it chooses by tiny differences"
)


@dataclass(frozen=True)
class Identity:
    """One identity: its largest error, relative to the size of what is compared, and what is tolerated."""

    name: str
    error: float | None
    tolerance: float
    reason: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether it holds; None where this architecture has nothing to compare."""
        return None if self.error is None else self.error <= self.tolerance


def measured(model: Model) -> Iterator[Identity]:
    """Measure what this model can be asked about."""
    measure = Measure(model)
    yield from measure.logits()
    yield from measure.residuals()
    yield from measure.attention()
    yield from measure.projections()
    yield from measure.writing()
    yield from measure.padding()


class Measure:
    """The measurements on one model: two rows of twelve tokens, and what was kept of them."""

    def __init__(self, model: Model) -> None:
        self.model, self.anatomy = model, model.anatomy
        self.loose = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
        # A sum of three that is made in another order may be a few roundings apart.
        self.tight = max(self.loose / 10, 4 * torch.finfo(model.dtype).eps)
        length = min(_LENGTH, self.anatomy.context or _LENGTH)
        generator = torch.Generator().manual_seed(0)
        # Not the padding token: models of RoBERTa's kind give it no position of its own.
        padding = getattr(self.anatomy.text_config, "pad_token_id", None)
        usable = torch.tensor([token for token in range(self.anatomy.vocab) if token != padding])
        self.tokens = usable[torch.randint(len(usable), (2, length), generator=generator)]
        self.sites = [(name, layer) for name in LAYERED for layer in self.anatomy.layers_of(name)]
        self.run = self._run(self.sites)
        self._steady = 0.0

    def _run(self, sites: Iterable[tuple[str, int]], prompt: Prompt | None = None, **more: Any) -> Run:
        keep = [Site(*site) for site in sites]
        return self.model.run(self.tokens if prompt is None else prompt, keep=keep, **more)

    def _layers(self, *names: str) -> list[int]:
        """The layers in which all of these sites exist."""
        there = [set(self.anatomy.layers_of(name)) for name in names]
        return sorted(set.intersection(*there))

    def _why(self, *names: str) -> str:
        """Why there is no layer with all of these sites."""
        for name in names:
            if not self.anatomy.layers_of(name):
                return self.anatomy.layers[0].missing[name]
        return f"no layer has all of {', '.join(names)}"

    def _over(self, name: str, tolerance: float, needs: tuple[str, ...], errors: Iterable[float]) -> Identity:
        """An identity that is measured in each layer."""
        if not self._layers(*needs):
            return Identity(name, None, 0.0, self._why(*needs))
        return Identity(name, max(errors), tolerance)

    # What the model gives

    def logits(self) -> Iterator[Identity]:
        """Bit-equal logits, the lens of the last layer, and that no later token matters."""
        with torch.no_grad():
            plain = self.model.hf_model(input_ids=self.tokens.to(self.model.device)).logits
        changed = [float((run.logits != plain).sum()) for run in (self.run, self._run([]))]
        yield Identity("logits = Hugging Face's, bit by bit", max(changed), 0.0)
        with torch.no_grad():
            shorter = self.model.hf_model(input_ids=self.tokens[:, :-1].to(self.model.device)).logits
        self._steady = error(shorter, plain[:, :-1])
        name = "a later token changes nothing before it"
        steady = self._steady <= self.loose or not self.anatomy.causal
        yield Identity(name, self._steady, self.loose) if steady else Identity(name, None, 0.0, UNSTEADY)
        yield self._lens()

    def _lens(self) -> Identity:
        name, last = "unembed(last resid_post) = logits", self.model.n_layers - 1
        if last not in self.anatomy.layers_of("resid_post"):
            return Identity(name, None, 0.0, self._why("resid_post"))
        try:
            with torch.no_grad():
                made = self.model.unembed(self.run["resid_post", last])
        except SiteUnavailable as missing:
            return Identity(name, None, 0.0, str(missing))
        return Identity(name, error(made, self.run.logits), self.tight)

    # The residual stream

    def residuals(self) -> Iterator[Identity]:
        """What each block hands on, and what is added to it."""
        run = self.run
        both = [layer for layer in self._layers("resid_pre", "resid_post") if layer + 1 in self._layers("resid_pre")]
        name = "resid_post of a layer = resid_pre of the next"
        if both:
            yield Identity(name, max(error(run["resid_post", i], run["resid_pre", i + 1]) for i in both), 0.0)
        else:
            yield Identity(name, None, 0.0, self._why("resid_pre"))
        writers = [i for i in self._layers("resid_pre") if {"attn_out", "mlp_out"} & self._names(i)]
        name = "resid_pre + attn_out + mlp_out = resid_post"
        if not writers:
            yield Identity(name, None, 0.0, self._why("attn_out", "mlp_out"))
        else:
            sums = (error(self._sum(i, "resid_pre", "attn_out", "mlp_out"), run["resid_post", i]) for i in writers)
            yield Identity(name, max(sums), self.tight)
        needs = ("resid_pre", "attn_out", "resid_mid")
        sums = (error(self._sum(i, "resid_pre", "attn_out"), run["resid_mid", i]) for i in self._layers(*needs))
        yield self._over("resid_pre + attn_out = resid_mid", self.tight, needs, sums)

    def _names(self, layer: int) -> set[str]:
        return {name for name, at in self.sites if at == layer}

    def _sum(self, layer: int, *names: str) -> Tensor:
        return torch.stack([self.run[name, layer] for name in names if name in self._names(layer)]).sum(0)

    # Attention

    def attention(self) -> Iterator[Identity]:
        """Scores, pattern and what comes of them."""
        tight = self.tight
        needs = ("scores", "pattern")
        sums = (self._row_sums(i) for i in self._layers("pattern"))
        yield self._over("a row of pattern sums to 1, or less beside an attention sink", tight, ("pattern",), sums)
        errors = (self._softmax(i) for i in self._layers(*needs))
        yield self._over("pattern = softmax(scores), but for a sink", tight, needs, errors)
        needs = ("pattern", "v", "z")
        errors = (self._mixed(i) for i in self._layers(*needs))
        yield self._over("pattern @ v = z", tight, needs, errors)

    def _row_sums(self, layer: int) -> float:
        over = self.run["pattern", layer].float().sum(-1) - 1
        return float((over.clamp_min(0) if self._has_sink(layer) else over.abs()).max())

    def _has_sink(self, layer: int) -> bool:
        module = self.anatomy.spot(Site("pattern", layer)).point.module
        return any(call.sinks for call in self.anatomy.probe.attention if call.module is module)

    def _softmax(self, layer: int) -> float:
        """A sink takes its part of the softmax; the ratio between keys stays."""
        pattern, scores = self.run["pattern", layer], self.run["scores", layer]
        made = scores.float().softmax(-1)
        return error(made * pattern.float().sum(-1, keepdim=True) if self._has_sink(layer) else made, pattern)

    def _mixed(self, layer: int) -> float:
        pattern, v, z = (self.run[name, layer] for name in ("pattern", "v", "z"))
        shared = pattern.shape[1] // v.shape[2]
        by_head = v.repeat_interleave(shared, 2) if shared > 1 else v
        made = torch.einsum("bhqk,bkhd->bqhd", pattern.to(v.dtype), by_head)
        return error(made.flatten(-2), z.flatten(-2))

    # The matrices after z and mlp_post

    def projections(self) -> Iterator[Identity]:
        """Each head through its own slice of the output projection, and the neurons through the down projection."""
        tight = self.tight
        errors = self._through("z")
        yield self._over("the heads' parts of the output projection add up to it", tight, ("z",), errors)
        errors = self._through("mlp_post")
        yield self._over("mlp_post through the down projection = what it gives", tight, ("mlp_post",), errors)

    def _through(self, name: str) -> list[float]:
        spots = {layer: self.anatomy.spot(Site(name, layer)) for layer in self.anatomy.layers_of(name)}
        given = dict[int, Tensor]()

        def keeping(layer: int) -> Taker:
            return lambda tensor: given.__setitem__(layer, tensor.clone())

        with tapped({Point(spot.point.module, "output"): keeping(layer) for layer, spot in spots.items()}):
            self._run([])
        return [_projected(self.run[name, layer], spot.point.module, given[layer]) for layer, spot in spots.items()]

    # Writing

    def writing(self) -> Iterator[Identity]:
        """What is written back unchanged changes nothing, what is changed goes on, a run can begin in the middle."""
        yield self._written_back()
        yield self._middle()
        yield self._run_on()

    def _written_back(self) -> Identity:
        """Every site in every layer in which it exists, as a copy, all in one forward."""
        names = {*dict(self.sites), *(name for name in SINGLE if name in self.model.sites)} - {"logits"}
        run = self._run([], edits=[Call(name, torch.clone) for name in NAMES if name in names])
        changed = float((run.logits != self.run.logits).sum())
        return Identity("each site written back unchanged leaves the logits, bit by bit", changed, 0.0)

    def _middle(self) -> Identity:
        name, layers = (
            "resid_mid written is what the MLP is added to",
            self._layers("resid_mid", "mlp_out", "resid_post"),
        )
        if not layers:
            return Identity(name, None, 0.0, self._why("resid_mid", "mlp_out"))
        sites = [(site, layer) for layer in layers for site in ("resid_mid", "mlp_out", "resid_post")]
        run = self._run(sites, edits=Call("resid_mid", lambda tensor: tensor.roll(1, -1)))
        errors = (error(run["resid_mid", i] + run["mlp_out", i], run["resid_post", i]) for i in layers)
        return Identity(name, max(errors), self.tight)

    def _run_on(self) -> Identity:
        name, layer = "running on from resid_pre = the rest of the run", self.model.n_layers // 2
        if layer not in self._layers("resid_pre"):
            return Identity(name, None, 0.0, self._why("resid_pre"))
        try:
            rest = self.model.run(self.tokens, start_at=layer, resid=self.run["resid_pre", layer])
        except SiteUnavailable as missing:
            return Identity(name, None, 0.0, str(missing))
        return Identity(name, float((rest.logits != self.run.logits).sum()), 0.0)

    # Padding

    def padding(self) -> Iterator[Identity]:
        """Each row of a padded batch against its run alone, at every site and layer, on either side."""
        rows = [self.tokens[0].tolist(), self.tokens[1, : self.tokens.shape[1] // 2].tolist()]
        alone = [self._run(self.sites, row) for row in rows]
        for side in ("left", "right"):
            name = f"{side}-padded rows = their solo runs"
            if self.anatomy.causal and self._steady > self.loose:
                yield Identity(name, None, 0.0, UNSTEADY)
            elif (refused := self.anatomy.ragged.refusal(side, len(rows[0]))) is not None:
                yield Identity(name, None, 0.0, f"refused, since {refused}")
            else:
                yield Identity(name, self._padded(rows, alone, side), self.loose)

    def _padded(self, rows: list[list[int]], alone: list[Run], side: Side) -> float:
        padded = self._run(self.sites, rows, padding_side=side)
        assert padded.mask is not None
        errors = [0.0]
        for row, solo in enumerate(alone):
            real = padded.mask[row].bool()
            errors.append(error(padded.logits[row, real], solo.logits[0]))
            for name, layer in self.sites:
                seen = padded[name, layer][row]
                seen = seen[:, real][..., real] if name in ("scores", "pattern") else seen[real]
                errors.append(error(seen, solo[name, layer][0]))
        return max(errors)


def _projected(parts: Tensor, module: Any, given: Tensor) -> float:
    """The error of a matrix product done anew, by heads where there are any; 0 where its matrix is not plain."""
    kind = type(module).__name__  # and the one of torch: a wrapper of PEFT's is called so too
    if (type(module) is not nn.Linear and kind != "Conv1D") or not is_plain(module.weight):
        return 0.0
    matrix = module.weight.T if kind == "Linear" else module.weight
    if parts.dim() == 4:
        made = torch.einsum("bphd,hdo->bpho", parts, matrix.unflatten(0, (parts.shape[2], -1))).sum(2)
    else:
        made = parts @ matrix
    made = made if module.bias is None else made + module.bias
    return error(made, given.reshape(made.shape))


def error(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value at that position. What is infinite must be so in both."""
    if not a.numel():
        return 0.0
    a, b = a.detach().float(), b.detach().float()
    infinite = b.isinf()
    if not torch.equal(a.isinf(), infinite):
        return torch.inf
    a, b = a.masked_fill(infinite, 0), b.masked_fill(infinite, 0)
    # A row of scores may be small only because a large bias and a large product cancel out.
    size = b.abs().amax() if infinite.any() else b.abs().amax(-1, keepdim=True)
    size = size.clamp_min(1e-6)
    return float(((a - b).abs() / size).max())
