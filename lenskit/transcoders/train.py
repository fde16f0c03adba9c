"""Train: dictionaries from a model and texts, several in one pass, from where the last attempt was interrupted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.identity import Identity
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.shards import Shards
from lenskit.transcoders.training import Report, Training
from lenskit.transcoders.transcoder import Transcoder, as_sites

EVERY = 60.0  # seconds between two checkpoints


@dataclass(frozen=True)
class Wanted:
    """One dictionary that is to be trained: what it reads, what it writes, and how.

    reads, writes: sites with their layer. The same one twice asks for an autoencoder.
    """

    reads: SiteLike
    writes: SiteLike
    recipe: Recipe

    @property
    def sites(self) -> tuple[Site, Site]:
        """Both sites."""
        return as_sites(self.reads)[0], as_sites(self.writes)[0]


def train(
    model: Model,
    texts: Texts,
    wanted: Sequence[Wanted],
    *,
    tokens: int | None = None,
    epochs: int = 1,
    length: int = 128,
    per_shard: int = 1 << 17,
    skip: int = 1,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    on_report: Callable[[list[Report]], object] | None = None,
) -> list[Transcoder]:
    """Train dictionaries on one stream of activations, and give them in the order in which they were asked for.

    Args:
        model: the model, as it is. The forward stops at the last site that is needed.
        texts: texts, rows of a data set, or token ids (n,) or (chunk, pos).
        wanted: the dictionaries. Their recipes have one batch size.
        tokens: how many to take of the texts; None for all.
        epochs: how often to go through them.
        length: how many tokens the model reads together.
        per_shard: how many tokens' activations are held and shuffled together.
        skip: how many tokens to leave out at the beginning of each: the first is like nothing else.
        folder: where to write checkpoints, every minute. A training that is begun again with the same folder goes on
            from the last one, and ends with the very same weights.
        cache: where to keep the activations, so that other trainings find them.
        on_report: called with one report for each dictionary after every step.

    Raises `ValueError` where there are fewer tokens than one batch, or for a folder of another training.

    >>> recipe = Recipe(4096, k=32, skip=True)                                            # doctest: +SKIP
    >>> [tc] = train(model, texts, [Wanted(("mlp_in", 15), ("mlp_out", 15), recipe)])     # doctest: +SKIP
    """
    if not wanted or len({each.recipe.batch for each in wanted}) > 1:
        raise ValueError("say at least one dictionary, and one batch size for all of them.")
    batch = wanted[0].recipe.batch
    ids = chunks_of(model, texts, length, tokens).ids
    sites = tuple(dict.fromkeys(site for each in wanted for site in each.sites))
    shards = Shards(
        model,
        ids,
        sites,
        per_shard=max(per_shard, batch),
        skip=skip,
        folder=None if cache is None else Path(cache),
        seed=wanted[0].recipe.seed,
    )
    steps = epochs * sum(size // batch for size in shards.sizes)
    if not steps:
        raise ValueError(f"{shards.tokens:,} tokens are not one batch of {batch:,}: give more text.")
    trainings = _begun(wanted, shards[0], steps)
    told = [model.provenance, hashlib.sha256(ids.numpy().tobytes()).hexdigest(), epochs, per_shard, skip]
    checkpoint = None if folder is None else Checkpoint(Path(folder) / "checkpoint.pt", [*told, *map(repr, wanted)])
    done = 0 if checkpoint is None else checkpoint.resume(trainings)
    for given in _batches(shards, batch, epochs, done):
        reports = [
            training.step(given[each.sites[0]], given[each.sites[1]])
            for training, each in zip(trainings, wanted, strict=True)
        ]
        done += 1
        if on_report is not None:
            on_report(reports)
        if checkpoint is not None:
            checkpoint.write_now_and_then(trainings, done == steps)
    identity = Identity.of(model) if model.anatomy.is_language_model else None
    about = {"model": model.provenance, "tokens": shards.tokens, "epochs": epochs, "length": length, "skip": skip}
    made = [
        training.dictionary(each.reads, each.writes, about) for training, each in zip(trainings, wanted, strict=True)
    ]
    for transcoder in made:
        transcoder.identity = identity
    return made


def _begun(wanted: Sequence[Wanted], sample: dict[Site, Tensor], steps: int) -> list[Training]:
    return [
        Training(each.recipe, sample[reads], sample[writes], tied=reads == writes, steps=steps)
        for each in wanted
        for reads, writes in [each.sites]
    ]


def _batches(shards: Shards, batch: int, epochs: int, done: int) -> Iterator[dict[Site, Tensor]]:
    """The batches after those that are done; of shards that are done already, nothing is computed."""
    before = 0
    for epoch in range(epochs):
        for number, size in enumerate(shards.sizes):
            count = size // batch
            if before + count > done:
                given = shards[number]
                order = torch.randperm(size, generator=torch.Generator().manual_seed(epoch * 1_000_003 + number))
                for at in range(max(0, done - before), count):
                    rows = order[at * batch : (at + 1) * batch]
                    yield {site: tensor[rows] for site, tensor in given.items()}
            before += count


class Checkpoint:
    """Where a training was: written now and then, whole or not at all, between two steps.

    path: the file. told: what the training depends on; another one's checkpoint is refused.
    """

    def __init__(self, path: Path, told: list[Any]) -> None:
        self.path, self.told = path, hashlib.sha256(repr(told).encode()).hexdigest()
        self._written = time.monotonic()

    def resume(self, trainings: Sequence[Training]) -> int:
        """Bring the trainings to where they were, and give how many steps were done: 0 where nothing was written."""
        if not self.path.exists():
            return 0
        stored = torch.load(self.path, weights_only=True)
        if stored["told"] != self.told:
            raise ValueError(
                f"{self.path} is the checkpoint of another training: of another model, text, recipe or number of "
                "epochs. Choose another folder, or take that file away."
            )
        for training, state in zip(trainings, stored["states"], strict=True):
            training.resume(state)
        return trainings[0].done

    def write_now_and_then(self, trainings: Sequence[Training], at_the_end: bool) -> None:
        """Write, if the last time is a while ago."""
        if at_the_end or time.monotonic() - self._written > EVERY:
            with whole_file(self.path) as scratch:
                torch.save({"told": self.told, "states": [training.state() for training in trainings]}, scratch)
            self._written = time.monotonic()
