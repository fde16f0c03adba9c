"""What lenskit can see in a tiny random model of a type: for the test of all architectures and the README's table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

import lenskit as lk
from lenskit.models.check import Check
from lenskit.models.finding.heads import NO_MIXER
from lenskit.models.finding.recipes import NO_ATTENTION
from lenskit.models.sites import LAYERED
from tests.models.architectures import build

STREAM = ("resid_pre", "resid_post", "logits")
EVERYTHING = ("q", "k", "v", "scores", "pattern", "z", "attn_out", "mlp_out")
LENS = "unembed(last resid_post) = logits"
_NO_ATTENTION = (NO_ATTENTION, NO_MIXER)


class Survey(NamedTuple):
    """The sites of one type. `missing`: the reason for each site that is not in every layer, without its introduction.

    `layers` says in which layers each site exists, of `depth`; `attending` are those with attention that has a softmax.
    """

    type: str
    depth: int
    layers: Mapping[str, tuple[int, ...]]
    missing: Mapping[str, str]
    attending: tuple[int, ...]
    check: Check

    @property
    def streams(self) -> bool:
        """Whether the residual stream and the lens are there and every identity that can be measured holds."""
        return not any(name in self.missing for name in STREAM) and self.check.passed and bool(self.check[LENS].passed)

    @property
    def complete(self) -> bool:
        """Whether all of `EVERYTHING` is there too, in every layer."""
        return self.streams and not any(name in self.missing for name in EVERYTHING)

    @property
    def complete_where_it_attends(self) -> bool:
        """The same, where a hybrid is asked only for those of its layers that have attention."""
        there = all(set(self.attending) <= set(self.layers[name]) for name in EVERYTHING)
        return self.streams and bool(self.attending) and there


@cache
def survey(model_type: str) -> Survey:
    """Build the type, look for its sites and check it."""
    model = lk.Model(build(model_type), name=model_type)
    sites = model.sites
    found = model.anatomy.layers
    missing = {name: _brief(reason) for name, reason in sites.reasons.items() if reason is not None}
    for name in missing.keys() & LAYERED.keys():  # not only the reason in the first layer
        missing[name] = "; or ".join(
            dict.fromkeys(_brief(each.missing[name]) for each in found if name in each.missing)
        )
    layers = {name: tuple(model.anatomy.layers_of(name)) for name in LAYERED}
    attending = tuple(layer for layer, each in enumerate(found) if each.missing.get("q") not in _NO_ATTENTION)
    return Survey(model_type, model.n_layers, layers, missing, attending, model.check())


def _brief(reason: str) -> str:
    """A reason without its introduction, its advice and the numbers of this one model."""
    reason = re.sub(r"^'\w+' does not exist in [^:]*: ", "", reason)
    reason = re.sub(r" Use '.*", "", reason).strip().rstrip(".")
    reason = re.sub(r"of \w+ could not be followed: .*", "could not be followed", reason)
    reason = re.sub(r"shape \([\d, ]+\)", "another shape", reason)
    return re.sub(r"by \d[\d.e-]*", "by a number", reason)


def table(surveys: Iterable[Survey]) -> str:
    """The README's table: the types that have the same sites on one line, the best served first."""
    groups: dict[str, list[str]] = {}
    surveys = list(surveys)
    for each in surveys:
        groups.setdefault(_lacks(each), []).append(each.type)
    complete = sum(each.complete for each in surveys)
    attending = sum(each.complete_where_it_attends for each in surveys)
    lines = [
        f"Of {len(surveys)} types, {sum(each.streams for each in surveys)} have the residual stream and a verified way "
        f"from it to the logits. {complete} have all of `{' '.join(EVERYTHING)}` in every layer, and {attending} in "
        "every layer that has attention. What does not add up is not offered, and says why.",
        "",
        "<details><summary>Which sites each architecture has, and why not the others</summary>",
        "",
        "| | types | not there |",
        "|--:|---|---|",
    ]
    for lacks, types in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        lines.append(f"| {len(types)} | {' '.join(types)} | {lacks or 'nothing'} |")
    return "\n".join([*lines, "", "</details>"])


def _lacks(each: Survey) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in each.missing.items():
        if name in (*LAYERED, "logits"):
            partly = "; in some layers" if each.layers.get(name) else ""
            reasons.setdefault(reason + partly, []).append(name)
    return "<br>".join(f"`{' '.join(names)}`: {reason}" for reason, names in reasons.items()).replace("|", "\\|")


def report(surveys: Iterable[Survey]) -> str:
    """Everything of every type: its sites, what is missing and why, and the error of each identity."""
    lines = list[str]()
    for each in surveys:
        lines.append(f"{each.type}: {each.depth} layers")
        for name, layers in each.layers.items():
            where = "every layer" if len(layers) == each.depth else f"layers {list(layers)}" if layers else "no layer"
            why = f" ({each.missing[name]})" if name in each.missing else ""
            lines.append(f"  {name:<11} {where}{why}")
        lines += [f"  {name:<11} missing ({why})" for name, why in each.missing.items() if name not in each.layers]
        lines += [f"  {line}" for line in repr(each.check).splitlines()]
    return "\n".join(lines)
