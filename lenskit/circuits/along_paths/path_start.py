"""Starts of paths: the feature or the logit that is explained."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from lenskit.circuits.along_paths.notation import Step
from lenskit.circuits.along_paths.path_steps import HeldPrompt
from lenskit.circuits.along_paths.path_vectors import Vector
from lenskit.circuits.attributing.targets import Targets, Token, reading_site
from lenskit.circuits.nodes import Node

StartLike = str | Node | Step
_FEATURE = re.compile(r"(\d+)\.(\d+)@(-?\d+)")


class Start(NamedTuple):
    """Where paths begin.

    Attributes:
        step: what it is; what it gives is its value: of a feature its pre-activation, of a logit by how much it is over
            the mean of all.
        vector: by which direction of the residual stream it comes about.
        activation: of a feature, how active it is; nan of a logit.
        label: its name.
    """

    step: Step
    vector: Vector
    activation: float
    label: str


@torch.no_grad()
def start_of(held: HeldPrompt, start: StartLike, token: Token | None, versus: Token | None) -> Start:
    """Find what is asked for in a prompt.

    Raises `ValueError` for what is neither a feature nor a logit, or not the kind of feature that its layer has;
    `IndexError` for a feature or position that does not exist.
    """
    asked = _asked(held, start)
    if asked.component == "logit":
        return _logit(held, asked, token, versus)
    if token is not None or versus is not None:
        raise ValueError(f"token= and versus= say which logit is meant, and {start!r} is none.")
    return _feature(held, asked)


def _asked(held: HeldPrompt, start: StartLike) -> Step:
    if isinstance(start, str) and not _FEATURE.fullmatch(start):
        start = Step.parse("logit@-1" if start == "logit" else start)
    if isinstance(start, Step):
        if start.component not in ("logit", "tc", "neuron"):
            raise ValueError(f"{start} is neither a feature nor a logit: paths begin with what can be explained.")
        return start
    found = _FEATURE.fullmatch(str(start))
    if found is None:
        raise ValueError(f"{start} is no feature '20.155@7'. For a logit, start is 'logit' or 'logit@11', with token=.")
    layer, feature, pos = map(int, found.groups())
    return Step(held.component_of(layer), layer, feature, pos)


def _feature(held: HeldPrompt, asked: Step) -> Start:
    component, step = held.component_of(asked.layer), asked.resolved(held.length)
    if step.component != component:
        raise ValueError(f"{asked} does not exist: layer {asked.layer} has features mlp{asked.layer}{component}[...].")
    try:
        made = held.made_by(step)
    except IndexError:
        raise IndexError(f"feature {asked.layer}.{asked.number} does not exist: the layer has fewer.") from None
    step = step._replace(contribution=made.value)
    vector = held.vector(held.basis_of(step.layer).reads, step.pos, made.direction, made.constant)
    return Start(step, vector, held.activation(step), f"{step.layer}.{step.number}@{step.pos}")


def _logit(held: HeldPrompt, asked: Step, token: Token | None, versus: Token | None) -> Start:
    if asked.number >= 0:
        if token is not None or versus is not None:
            raise ValueError(f"{asked} says which token is meant: leave token= and versus= out.")
        token, versus = asked.number, None if asked.versus < 0 else asked.versus
    logits = held.replacement.logits[0]
    targets = Targets.of(held.model, logits, token, versus, asked.pos, share=0.5, most=1)
    ids, read = targets.tokens[0], targets.read
    if len(targets.tokens) > 1:
        raise ValueError(f"{token!r} is several tokens: paths begin with one logit.")
    direction, constant = read.vectors[0], float(read.constants[0])
    site = reading_site(held.model)
    value = float(held.read(site)[targets.pos] @ direction) + constant
    vector = held.vector(site, targets.pos, direction, constant)
    step = Step("logit", -1, ids[0], targets.pos, value, ids[1] if len(ids) == 2 else -1)
    return Start(step, vector, float("nan"), targets.labels[0])
