"""Effects: how far an edit moves the model's prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lenskit.models.ablations import AblateLayer, How, Over
from lenskit.models.batch import Prompt
from lenskit.models.edits import Edit
from lenskit.models.model import Model

_ROWS = 64


@dataclass(frozen=True, eq=False)
class Effect:
    """How far edits move the final prediction.

    Attributes:
        kl: (batch, pos) KL(unedited || edited) in nats; 0 at padding.
        mask: (batch, pos) 1 for a real token; None where nothing is padded.
    """

    kl: Tensor
    mask: Tensor | None

    @property
    def mean(self) -> float:
        """The average over all real tokens, in nats."""
        count = self.kl.numel() if self.mask is None else int(self.mask.sum())
        return float(self.kl.double().sum() / count)

    def __repr__(self) -> str:
        rows, length = self.kl.shape
        return f"Effect({rows} x {length} tokens, mean KL {self.mean:.4g} nats)"


def effect_of(model: Model, prompt: Prompt, edits: Edit | Iterable[Edit]) -> Effect:
    """Run a prompt with and without edits: the KL of the final prediction at every position.

    Memory: the logits of both runs. Raises what `model.run` raises.

    >>> effect_of(model, prompts, AblateLayer(layers=9, how="mean")).mean  # doctest: +SKIP
    """
    clean = model.run(prompt)
    edited = model.run(prompt, edits=edits)
    return Effect(kl_between(clean.logits, edited.logits, clean.mask), clean.mask)


def layer_effects(
    model: Model,
    prompt: Prompt,
    *,
    how: How = "mean",
    over: Over = "rows",
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[int, Effect]:
    """Ablate each layer by itself, and measure what becomes of the final prediction.

    Args:
        prompt: as in `model.run`; "mean" and "resample" over rows need several.
        how, over, seed: as in `AblateLayer`.
        layers: which; by default all.

    >>> {layer: effect.mean for layer, effect in layer_effects(model, prompts).items()}  # doctest: +SKIP
    """
    clean = model.run(prompt)
    effects = {}
    for layer in range(model.n_layers) if layers is None else layers:
        edited = model.run(prompt, edits=[AblateLayer(layers=layer, how=how, over=over, seed=seed)])
        effects[layer] = Effect(kl_between(clean.logits, edited.logits, clean.mask), clean.mask)
    return effects


def kl_between(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(a || b) in nats of logits (batch, pos, vocab), as (batch, pos): a few rows at a time; 0 where masked."""
    flat = [x.flatten(0, 1) for x in (a, b)]
    parts = []
    for start in range(0, len(flat[0]), _ROWS):
        x, y = (each[start : start + _ROWS].double().log_softmax(-1) for each in flat)
        parts.append((x.exp() * (x - y)).sum(-1))
    kl = torch.cat(parts).clamp_min(0).float().view(a.shape[:-1])
    return kl if mask is None else kl * mask
