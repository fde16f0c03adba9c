"""What a training begins with: a closed form, the identity, or a lens that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from lenskit.data import Chunks
from lenskit.lenses.closed_form import gathered
from lenskit.lenses.training.recipe import Recipe
from lenskit.lenses.translators import AnyTranslators, Translators
from lenskit.models.corpus import spread
from lenskit.models.identity import d_model_of
from lenskit.models.model import Model

Start = Literal["closed form", "identity"]


def chosen_layers(model: Model, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to train, ascending. Raises `ValueError` for one that is not there, and for none."""
    depth = model.n_layers
    chosen = sorted(range(depth) if layers is None else set(layers))
    if not chosen or not all(0 <= layer < depth for layer in chosen):
        raise ValueError(
            f"layers={list(chosen)}: this model has layers 0 to {depth - 1}; choose some of them, or None."
        )
    return tuple(chosen)


def begin(
    model: Model,
    chunks: Chunks,
    recipe: Recipe,
    start: Start | AnyTranslators,
    tokens: int,
    progress: Callable[[float], object] | None,
) -> Translators:
    """The translators of the recipe's layers to begin with; `tokens` are those of the closed form."""
    if isinstance(start, str):
        if start not in get_args(Start):
            raise ValueError(f"start is 'closed form', 'identity' or a TunedLens, not {start!r}.")
        if start == "identity":
            return Translators.identity(len(recipe.layers), d_model_of(model))
        ids = spread(chunks.ids, max(1, tokens // chunks.ids.shape[1]))
        moments = gathered(
            model, ids, recipe.layers, ahead=recipe.ahead, skip_first=recipe.skip_first, progress=progress
        )
        return moments.solve(bias_only=recipe.bias_only)
    return start.whole().of_layers(recipe.layers)
