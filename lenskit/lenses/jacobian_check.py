"""Jacobian check: whether a Jacobian lens is one of this model, measured on the model itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.data import Chunks
from lenskit.lenses.jacobian_fit.recipe import Recipe
from lenskit.lenses.jacobian_fit.rows import Rows, random_signs
from lenskit.lenses.lens import LogitLens
from lenskit.lenses.reading import columns_of, rows_of
from lenskit.lenses.readout import Asked
from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.files.demo_texts import demo_texts
from lenskit.models.identity import d_model_of
from lenskit.models.sites import Site
from lenskit.models.steps import finish

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.lenses.jacobian import JacobianLens

_PASSAGES, _LENGTH, _SKIP = 6, 64, 16
_DIRECTIONS = 64  # of the refit: along them cosines are those of the whole matrices to about a hundredth
_AGREES = 0.6  # of the agreement that two passages can show: other texts and other skips cost a part of it


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `passed` is None where the lens gives nothing to judge by."""

    name: str
    figure: str
    passed: bool | None


@dataclass(frozen=True)
class Refit:
    """How far a layer's matrix agrees with a fit on two passages, as cosines of the parts beyond the identity.

    Both are taken along the same random directions of the target residual, of which each mixes all rows.

    Attributes:
        cosine: of the lens and the mean of the two.
        between: of the two passages' own matrices, which says how noisy they are.
    """

    cosine: float
    between: float

    @property
    def expected(self) -> float:
        """What a lens without any noise of its own would show, if the noise of the two is independent."""
        return math.sqrt(2 * self.between / (1 + self.between)) if self.between > 0 else 0.0

    @property
    def passed(self) -> bool | None:
        """Whether it is near enough; None where the two passages have nothing in common themselves."""
        return None if self.expected < 0.1 else self.cosine >= _AGREES * self.expected


@dataclass(frozen=True)
class LensCheck:
    """What was measured of a Jacobian lens. `passed` is False where something makes it doubtful; print it.

    Attributes:
        lens: which.
        findings: what was looked at.
        kl, logit_kl: by layer, KL(model's final prediction || reading) in nats, of the lens and of the logit lens.
        from_identity: by layer, the distance of the matrix from the identity, relative to it.
        refits: by layer, the agreement with a refit.
    """

    lens: str
    findings: tuple[Finding, ...]
    kl: dict[int, float] = field(repr=False)
    logit_kl: dict[int, float] = field(repr=False)
    from_identity: dict[int, float] = field(repr=False)
    refits: dict[int, Refit] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it."""
        return all(finding.passed is not False for finding in self.findings)

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each layer; NaN where a layer was not refitted."""
        import pandas as pd

        rows = [
            {
                "layer": layer,
                "kl": self.kl[layer],
                "logit_kl": self.logit_kl[layer],
                "from_identity": self.from_identity[layer],
                "refit_cosine": self.refits[layer].cosine if layer in self.refits else math.nan,
                "expected_cosine": self.refits[layer].expected if layer in self.refits else math.nan,
            }
            for layer in self.kl
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        lines = [f"Check of {self.lens}: {'nothing speaks against it' if self.passed else 'DOUBTFUL'}"]
        for one in self.findings:
            mark = {True: "ok      ", False: "DOUBTFUL", None: "n/a     "}[one.passed]
            lines.append(f"  {mark} {one.name}: {one.figure}")
        return "\n".join(lines)


def check(lens: JacobianLens, texts: Texts | None = None, *, refit: bool = True) -> LensCheck:
    """Measure whether a lens belongs to its model: a file of another checkpoint of the same shape loads as well.

    Looked at are: the numbers of the matrices; that the last layer reads as the model's own logits; that the matrices
    come nearer to the identity towards the top; the KL from the model's prediction beside the logit lens's; and how
    far three layers, refitted on two passages, agree with the lens. How far they can is told by how far the two
    passages agree with each other; below six tenths of that the lens is doubtful. The refit takes the derivatives of
    64 random directions in the place of every row, which is enough for a cosine and takes a ninth of the demo model's.

    Args:
        lens: a Jacobian lens.
        texts: what `JacobianLens.fit` reads, 6 passages of 64 tokens of it. By default passages that come with lenskit;
            give others for a figure on text that the lens was not fitted to.
        refit: whether to refit, which takes 8 backwards or so from the target to the lowest layer.

    Raises `TypeError` for a model that reads no text where none is given.

    >>> lk.JacobianLens.load(model, "demo").check()  # doctest: +SKIP
    """
    model = lens.model
    if texts is None and model.text.tokenizer is None:
        raise TypeError("a lens is checked on a text, and this model reads none: give token ids, texts=.")
    length = min(_LENGTH, model.anatomy.context or _LENGTH)
    chunks = chunks_of(model, demo_texts() if texts is None else texts, length, _PASSAGES * length)
    distances = {layer: _distance(lens.matrix(layer)) for layer in lens.layers}
    kl, logit_kl, top = _read(lens, chunks.ids)
    findings = [_numbers(lens), top, _towards_the_top(distances), _beside_the_logit_lens(kl, logit_kl)]
    refits = _refitted(lens, chunks) if refit else {}
    findings += [_refit_finding(layer, each) for layer, each in refits.items()]
    return LensCheck(repr(lens), tuple(findings), kl, logit_kl, distances, refits)


def _numbers(lens: JacobianLens) -> Finding:
    """Whether every matrix has numbers in it, and none is the identity by itself or another layer's."""
    wrong, before = list[str](), None
    for layer in lens.layers:
        matrix = lens.matrix(layer)
        if not bool(matrix.isfinite().all()) or not bool(matrix.any()):
            wrong.append(f"layer {layer} has no numbers")
        elif _distance(matrix) < 1e-6:
            wrong.append(f"layer {layer} is the identity")
        elif before is not None and torch.equal(before, matrix):
            wrong.append(f"layer {layer} is that of the layer before")
        before = matrix
    depth = lens.model.n_layers - 1
    figure = "; ".join(wrong) or f"{len(lens.layers)} of {depth} layers, all finite and of their own"
    return Finding("matrices", figure, not wrong)


def _distance(matrix: Tensor) -> float:
    """How far a matrix is from the identity, in units of the identity's own norm."""
    eye = torch.eye(len(matrix), dtype=torch.float64)
    return float((matrix.cpu().double() - eye).norm() / math.sqrt(len(matrix)))


def _read(lens: JacobianLens, ids: Tensor) -> tuple[dict[int, float], dict[int, float], Finding]:
    """KL of every layer that the lens has, the logit lens's, and whether the last layer is the model's own output."""
    model, rows = lens.model, rows_of(lens)
    last, sites = rows[-1], rows[:-1]
    totals, error = torch.zeros(2, len(sites), dtype=torch.float64), 0.0
    for chunk in ids:
        run = model.run(chunk[None], keep=[*sites, last])
        states = torch.stack([run[site][0, 1:] for site in sites])
        logits = run.logits[0, 1:]
        for which, each in enumerate((lens, LogitLens(model))):
            columns = finish(columns_of(each, states, logits, Asked(1), rows=rows))
            totals[which] += torch.from_numpy(columns.kl[:, :-1]).double().mean(0)
        with torch.no_grad():
            own = model.unembed(lens.transport(run[last][0, 1:], last))
        error = max(error, float((own - logits).abs().max() / logits.abs().max().clamp_min(1e-9)))
    means = (totals / len(ids)).tolist()
    layers = [site.layer or 0 for site in sites]
    kl, logit_kl = (dict(zip(layers, row, strict=True)) for row in means)
    rounding = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    top = Finding(
        "the last layer is the model's own output", f"relative error of its logits {error:.1e}", error < rounding
    )
    return kl, logit_kl, top


def _towards_the_top(distances: dict[int, float]) -> Finding:
    """Whether the matrices come nearer to the identity: those of an early layer have more blocks behind them."""
    name = "towards the identity at the top"
    if len(distances) < 2:
        return Finding(name, "it takes two layers", None)
    values = [distances[layer] for layer in sorted(distances)]
    half = len(values) // 2
    low, high = sum(values[:half]) / half, sum(values[-half:]) / half
    figure = f"distance {values[0]:.2f} in the lowest layer, {values[-1]:.2f} in the highest"
    return Finding(name, figure, high <= low and math.isfinite(high))


def _beside_the_logit_lens(kl: dict[int, float], logit_kl: dict[int, float]) -> Finding:
    better = sum(kl[layer] < logit_kl[layer] for layer in kl)
    mean, other = (sum(each.values()) / max(1, len(each)) for each in (kl, logit_kl))
    figure = f"{mean:.2f} nats on average against {other:.2f} of the logit lens, lower in {better} of {len(kl)} layers"
    return Finding("KL from the model's prediction", figure, 2 * better >= len(kl))


def _refitted(lens: JacobianLens, chunks: Chunks) -> dict[int, Refit]:
    """The lowest, the middle and the highest layer, fitted on two passages one by one, along a few directions."""
    there, ids = list(lens.layers), chunks.ids
    layers = sorted({there[0], there[len(there) // 2], there[-1]})
    recipe = Recipe.of(lens.model, chunks, lens.target, ["resid_post"], layers, min(_SKIP, ids.shape[1] // 4))
    rows, along = Rows(lens.model, recipe), _directions(d_model_of(lens.model))
    passages = [rows.along(ids[at], along) for at in (0, -1)]
    found = dict[int, Refit]()
    for place in recipe.places:
        # Beyond the identity: near the top every lens hands a state on.
        first, second = (passage[place].cpu().double() - along for passage in passages)
        mine = along @ lens.matrix(place.layer).cpu().double() - along
        found[place.layer] = Refit(_cosine(mine, first + second), _cosine(first, second))
    return found


def _directions(d_model: int) -> Tensor:
    """(n, d_model) the directions of a refit: random ones, or where the model is small every row's own."""
    few = d_model <= _DIRECTIONS
    return (torch.eye(d_model) if few else random_signs(_DIRECTIONS, d_model, seed=0)).double()


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-300))


def _refit_finding(layer: int, refit: Refit) -> Finding:
    name = f"refit of {Site('resid_post', layer)} on two passages"
    if not math.isfinite(refit.between):
        return Finding(name, "the model's derivatives are no numbers: load it in float32", None)
    figure = f"cosine {refit.cosine:.2f}, where a lens of this model shows about {refit.expected:.2f}"
    return Finding(name, figure, refit.passed)
