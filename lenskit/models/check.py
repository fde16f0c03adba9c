"""check: measure, on this very model, that what lenskit reads is what the model computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenskit.models.sites import SiteUnavailable

if TYPE_CHECKING:
    from lenskit.models.model import Model

_LENGTH = 12


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


@dataclass(frozen=True)
class Check:
    """The identities of a model with their errors. `check.passed` is True when none is broken."""

    model: str
    identities: tuple[Identity, ...]

    @property
    def passed(self) -> bool:
        """Whether no identity is broken."""
        return all(identity.passed is not False for identity in self.identities)

    def __getitem__(self, name: str) -> Identity:
        return next(identity for identity in self.identities if identity.name == name)

    def __repr__(self) -> str:
        lines = [f"Check of {self.model}: {'every identity holds' if self.passed else 'BROKEN'}"]
        for one in self.identities:
            mark = {True: "ok    ", False: "BROKEN", None: "n/a   "}[one.passed]
            figure = one.reason if one.error is None else f"error {one.error:.1e}, tolerated {one.tolerance:.0e}"
            lines.append(f"  {mark} {one.name}: {figure}")
        return "\n".join(lines)


def check(model: Model) -> Check:
    """Measure every identity of DESIGN's promises that this model can be asked about."""
    loose = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
    before = _hooks(model.hf_model)
    identities = [*_measure(model, loose)]
    identities.append(Identity("no hook is left", float(_hooks(model.hf_model) - before), 0.0))
    return Check(model.name, tuple(identities))


def _measure(model: Model, loose: float) -> Iterator[Identity]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.anatomy.vocab, (2, _length(model)), generator=generator)
    run = model.run(tokens, keep=["resid_pre", "resid_post"])
    with torch.no_grad():
        plain = model.hf_model(input_ids=tokens.to(model.device)).logits
    yield Identity("logits = Hugging Face's, bit by bit", float((run.logits != plain).sum()), 0.0)
    del plain

    pre, post = run["resid_pre"], run["resid_post"]
    yield Identity("resid_post of a layer = resid_pre of the next", _error(post[:-1], pre[1:]), 0.0)
    shorter = model.run(tokens[:, :-1]).logits
    yield Identity("a later token changes nothing before it", _error(shorter, run.logits[:, :-1]), loose)
    yield _added(model, tokens, pre, post, loose)
    yield _middle(model, tokens, pre, loose)
    name = "unembed(last resid_post) = logits"
    try:
        with torch.no_grad():
            yield Identity(name, _error(model.unembed(post[-1]), run.logits), loose / 10)
    except SiteUnavailable as error:
        yield Identity(name, None, 0.0, str(error))
    yield from _ragged(model, tokens, loose)


def _added(model: Model, tokens: Tensor, pre: Tensor, post: Tensor, loose: float) -> Identity:
    name = "resid_pre + attn_out + mlp_out = resid_post"
    try:
        parts = model.run(tokens, keep=["attn_out", "mlp_out"])
    except SiteUnavailable as error:
        return Identity(name, None, 0.0, str(error))
    return Identity(name, _error(pre + parts["attn_out"] + parts["mlp_out"], post), loose / 10)


def _middle(model: Model, tokens: Tensor, pre: Tensor, loose: float) -> Identity:
    name = "resid_pre + attn_out = resid_mid"
    try:
        parts = model.run(tokens, keep=["attn_out", "resid_mid"])
    except SiteUnavailable as error:
        return Identity(name, None, 0.0, str(error))
    return Identity(name, _error(pre + parts["attn_out"], parts["resid_mid"]), loose / 10)


def _ragged(model: Model, tokens: Tensor, loose: float) -> Iterator[Identity]:
    """Each row of a padded batch against its run alone, at every layer and in the logits, on either padding side."""
    short = tokens[1, : tokens.shape[1] // 2]
    rows = [tokens[0].tolist(), short.tolist()]
    alone = [model.run(row, keep="resid_post") for row in rows]
    for side in ("left", "right"):
        padded = model.run(rows, keep="resid_post", padding_side=side)
        assert padded.mask is not None
        errors = []
        for row, solo in enumerate(alone):
            real = padded.mask[row].bool()
            errors.append(_error(padded.logits[row, real], solo.logits[0]))
            errors.append(_error(padded["resid_post"][:, row, real], solo["resid_post"][:, 0]))
        yield Identity(f"{side}-padded rows = their solo runs", max(errors), loose)


def _length(model: Model) -> int:
    return min(_LENGTH, model.anatomy.context or _LENGTH)


def _error(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value at that position."""
    if not a.numel():
        return 0.0
    size = b.float().abs().amax(-1, keepdim=True).clamp_min(1e-6)
    return float(((a.float() - b.float()).abs() / size).max())


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
