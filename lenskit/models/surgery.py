"""Surgery: layers deleted, replaced or put in another order, for as long as a context lasts.

Each gives an `Edited`, which is listed in `model.edits`, is a context, and is taken back by `remove()`. No weight and
no module of the model is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lenskit.models.ablations import AblateLayer
from lenskit.models.edited import Edited
from lenskit.models.edits import At, Edit, Splice
from lenskit.models.running.doors import Door
from lenskit.models.sites import SiteUnavailable
from lenskit.models.taps import watched

if TYPE_CHECKING:
    from lenskit.models.model import Model


def delete_layers(model: Model, layers: int | Sequence[int]) -> Edited:
    """Delete layers: what enters each of them leaves it, until it is taken back.

    The layers still read their input, so that a generation's cache stays whole; what they add is not used. Layers keep
    their numbers. Raises `NothingEdited` for a layer that does not exist.

    >>> with delete_layers(model, [3, 4]):  # doctest: +SKIP
    ...     model.run("The capital of France is")
    """
    return model.edit(AblateLayer(layers=layers))


def replace_layers(model: Model, replacements: Mapping[int, Callable[[Tensor], Tensor]]) -> Edited:
    """Replace layers, each by a function or module of what enters it, (batch, pos, d_model), of the same shape.

    Raises `NothingEdited` for a layer that does not exist.

    >>> with replace_layers(model, {5: lambda h: h + direction}):  # doctest: +SKIP
    ...     model.run("The capital of France is")
    """
    if not replacements:
        raise ValueError("say which layers to replace, such as {5: module}.")
    return model.edit(
        *(Splice("resid_pre", "resid_post", fn, layers=layer) for layer, fn in sorted(replacements.items()))
    )


def permute_layers(model: Model, order: Sequence[int]) -> Edited:
    """Run the layers in another order: in place i runs the block `order[i]`, until it is taken back.

    `resid_pre` and `resid_post` of layer i are what enters and leaves the i-th place; the sites inside a block go with
    the block. Your own calls of the Hugging Face model see the new order too, while it lasts. Forwards cannot begin in
    the middle (`start_at`) meanwhile.

    Raises `ValueError` for an order that is no permutation of all layers, and where the model gives two of the blocks
    that change places different masks, positions or anything else beside the residual stream.

    >>> with permute_layers(model, [0, 2, 1, *range(3, model.n_layers)]):  # doctest: +SKIP
    ...     model.run("The capital of France is")
    """
    order = [int(layer) for layer in order]
    if sorted(order) != list(range(model.n_layers)):
        raise ValueError(f"an order names each of the layers 0 to {model.n_layers - 1} once, and this is {order}.")
    if any(isinstance(edit, Permute) for edit in model.edits):
        raise ValueError("the layers are in another order already: take that back first.")
    _check_exchangeable(model, order)
    return _Permuted(model, Permute(order=tuple(order)))


@dataclass(frozen=True, eq=False, repr=False)
class Permute(Edit):
    """The entry in `model.edits` for layers in another order. Made by `permute_layers`, and by nothing else."""

    site: str = "resid_post"
    order: tuple[int, ...] = ()

    elsewhere: ClassVar[bool] = True
    """It acts at the blocks' doors, and has nothing to do at a site."""

    def new(self, part: Tensor, at: At) -> Tensor:
        raise TypeError("layers are put in another order by permute_layers, not by an edit of a run.")


class _Permuted(Edited):
    """Layers in another order: on from the moment it is made."""

    def __init__(self, model: Model, edit: Permute) -> None:
        super().__init__((edit,), model._edited)
        anatomy = model.anatomy
        # What is measured of the model once must be measured of the model as it is.
        self._anatomy, self._starts = anatomy, dict(anatomy._starts)
        doors = [Door.of(block) for block in anatomy.blocks]
        self._doors = [(doors[at], doors[of]) for at, of in enumerate(edit.order) if at != of]
        for place, block in self._doors:
            place.within = _running(block.own)
        for door in doors:
            door.taken_away_if_idle()
        model._edited.append(self)

    def remove(self) -> None:
        if self._doors:
            for place, _ in self._doors:
                place.within = None
                place.taken_away_if_idle()
            self._doors = []
            self._anatomy._starts.clear()
            self._anatomy._starts.update(self._starts)
        super().remove()


def _running(own: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: own(*args, **kwargs)


def _check_exchangeable(model: Model, order: Sequence[int]) -> None:
    """Raise where a block is given something else than the block whose place it takes."""
    anatomy = model.anatomy
    with suppress(SiteUnavailable):  # it says so itself, with the reason, where somebody asks for what is missing
        _ = anatomy.probe, anatomy.causal, anatomy.layers, anatomy.tail
    given = dict[nn.Module, list[Any]]()
    blocks = set(anatomy.blocks)

    def begin(module: nn.Module, everything: list[Any]) -> None:
        given.setdefault(module, everything[1:])

    with watched(blocks, begin, lambda module, output: None), anatomy.eagerly(), torch.no_grad():
        anatomy.model(input_ids=anatomy.probe.tokens, use_cache=False)
    for at, of in enumerate(order):
        place, block = anatomy.blocks[at], anatomy.blocks[of]
        kinds = [_kind(model, layer) for layer in (at, of)]
        alike = _alike(given.get(place), given.get(block)) and anatomy.probe.form(place) == anatomy.probe.form(block)
        if at != of and (kinds[0] != kinds[1] or not alike):
            what = f"({kinds[0]} and {kinds[1]})" if kinds[0] != kinds[1] else "beside the residual stream"
            raise ValueError(
                f"layer {of} cannot run in the place of layer {at}: this {anatomy.family} gives the two different "
                f"arguments {what}."
            )


def _kind(model: Model, layer: int) -> Any:
    """What the configuration says of a layer, by which the model chooses its mask and positions."""
    config = model.anatomy.text_config
    for name in ("layer_types", "layers_block_type", "attention_layers", "no_rope_layers"):
        listed = getattr(config, name, None)
        if isinstance(listed, Sequence) and len(listed) == model.n_layers:
            return listed[layer]
    return None


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return a is b or a == b
