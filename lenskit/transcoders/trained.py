"""Trained: `Transcoder.train` and `Transcoder.train_all`, which make dictionaries from a model and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from torch import nn

from lenskit.models.corpus import CHUNK, Texts
from lenskit.models.sites import SiteLike
from lenskit.transcoders.recipe import Options, Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lenskit.models.model import Model
    from lenskit.transcoders.history import History
    from lenskit.transcoders.transcoder import Transcoder

R = TypeVar("R")


class OfTheClass(Generic[R]):
    """A function of a class of modules under the name of a module's own method: `train`.

    Asked of the class it is the function; asked of a module it is torch's `train`, which `eval` calls.
    """

    def __init__(self, function: Callable[..., R]) -> None:
        self.function = function

    @overload
    def __get__(self, module: None, owner: type) -> Callable[..., R]: ...

    @overload
    def __get__(self, module: nn.Module, owner: type) -> Callable[..., Any]: ...

    def __get__(self, module: nn.Module | None, owner: type) -> Callable[..., Any]:
        return self.function if module is None else MethodType(nn.Module.train, module)


def trained(
    model: Model,
    texts: Texts,
    *,
    reads: SiteLike,
    writes: SiteLike,
    tokens: int | None = None,
    epochs: int = 1,
    length: int = CHUNK,
    per_shard: int = 1 << 17,
    skip_first: int = 1,
    held_out: int = 8,
    look_every: int = 100,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    on_step: Callable[[History], object] | None = None,
    progress: Callable[[float], object] | None = None,
    accelerator: Accelerator | None = None,
    **recipe: Unpack[Options],
) -> Transcoder:
    """Train a dictionary of what a model does between two of its sites, on a text.

    The activations are read from the model as they are needed, and shuffled in large parts. The same arguments give the
    same dictionary to the last bit. What was seen on the way is its `history`.

    Args:
        model: the model, as it is. The forward stops at the last site that is needed.
        texts: a text, texts, rows of a data set with a `text`, `Chunks`, or token ids (n,) or (chunk, pos).
        reads, writes: the two sites, with their layer. The same one twice makes a sparse autoencoder.
        tokens: how many to take, of a stream the first and else from all over it; None for all.
        epochs: how often to go through them.
        length: how many tokens the model reads at once.
        per_shard: how many tokens' activations are held and shuffled together.
        skip_first: positions left out at each chunk's beginning, where the attention sink is. BOS, EOS and padding are
            left out wherever they stand.
        held_out: how many chunks, at equal distances, not to learn from: on them the history sees what the dictionary
            explains, beside the best linear map, and how much of the model's loss it spares. 0 for none.
        look_every: steps from one such look to the next.
        folder: keeps a checkpoint, written every minute, from which the same call goes on after any interruption and
            ends as if it had not been there, to the last bit.
        cache: keeps the activations on disk, so that another training with the same text and sites finds them.
        on_step: called with the `History` after every step. `lk.widgets.live_curves()` draws it in a notebook.
        progress: called with the share done of the activations that are held together, while they are read.
        accelerator: accelerate's, for many processes, each of which reads its share of the text and learns from its
            share of every batch. Where `accelerate launch` started the process, one is made.
        recipe: everything else is a field of `Recipe`: `n_features=4096`, `activation="topk"` or "batchtopk" with
            `k=32`; "relu" (L1), "jumprelu" or "gated" with `sparsity`; `skip=True` for a linear way past the features,
            which starts as the best linear map; `lr batch warmup decay betas unit_norm start_bias revival ... seed`.

    Memory: the activations held together, 4 bytes for each number, and 4 times the weights. Raises `ValueError` for
    arguments that do not go together, for too little text, and where `folder` holds another training; `LoadError` for
    a spoilt checkpoint; `SiteUnavailable` for a site that this model has not.

    Sources: Gao et al., "Scaling and evaluating sparse autoencoders" (2024); Dunefsky et al., "Transcoders Find
    Interpretable LLM Feature Circuits" (2024); for the skip, Paulo et al., "Transcoders Beat Sparse Autoencoders for
    Interpretability" (2025); and see `Recipe`.

    >>> tc = lk.Transcoder.train(  # doctest: +SKIP
    ...     model, texts, reads=("mlp_in", 15), writes=("mlp_out", 15), n_features=4096, k=32, skip=True, epochs=4
    ... )
    >>> tc.history.figure()  # doctest: +SKIP
    """
    from lenskit.transcoders.train import Wanted, train

    [made] = train(
        model,
        texts,
        [Wanted(reads, writes, Recipe(**recipe))],
        tokens=tokens,
        epochs=epochs,
        length=length,
        per_shard=per_shard,
        skip_first=skip_first,
        held_out=held_out,
        look_every=look_every,
        folder=folder,
        cache=cache,
        on_step=None if on_step is None else lambda histories: on_step(histories[0]),
        progress=progress,
        accelerator=accelerator,
    )
    return made


def trained_all(
    model: Model,
    texts: Texts,
    layers: Iterable[int],
    *,
    reads: str = "mlp_in",
    writes: str = "mlp_out",
    tokens: int | None = None,
    epochs: int = 1,
    length: int = CHUNK,
    per_shard: int = 1 << 17,
    skip_first: int = 1,
    held_out: int = 8,
    look_every: int = 100,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    on_step: Callable[[list[History]], object] | None = None,
    progress: Callable[[float], object] | None = None,
    accelerator: Accelerator | None = None,
    **recipe: Unpack[Options],
) -> list[Transcoder]:
    """Train a dictionary for each of several layers in one pass over the text; everything else as in `train`.

    Args:
        layers: which.
        reads, writes: the names of the two sites, without their layer.
        on_step: called with a `History` for each layer after every step.

    >>> tcs = lk.Transcoder.train_all(model, texts, range(18, 24), k=32, skip=True)  # doctest: +SKIP
    >>> evaluate(model, tcs, other_texts)                                            # doctest: +SKIP
    """
    from lenskit.transcoders.train import Wanted, train

    return train(
        model,
        texts,
        [Wanted((reads, layer), (writes, layer), Recipe(**recipe)) for layer in layers],
        tokens=tokens,
        epochs=epochs,
        length=length,
        per_shard=per_shard,
        skip_first=skip_first,
        held_out=held_out,
        look_every=look_every,
        folder=folder,
        cache=cache,
        on_step=on_step,
        progress=progress,
        accelerator=accelerator,
    )
