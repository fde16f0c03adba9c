"""Train: dictionaries from a model and texts, several in one pass, from where the last attempt was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.models.corpus import CHUNK, Texts, chunks_of
from lenskit.models.identity import Identity
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike
from lenskit.processes import Processes, accelerated
from lenskit.transcoders.checkpoint import Checkpoint
from lenskit.transcoders.held_out import HeldOut
from lenskit.transcoders.history import History, Record
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.shards import Shards
from lenskit.transcoders.training import Training
from lenskit.transcoders.transcoder import Transcoder, as_sites

if TYPE_CHECKING:
    from accelerate import Accelerator


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

    def __str__(self) -> str:
        reads, writes = self.sites
        return str(reads) if reads == writes else f"{reads} -> {writes}"


def train(
    model: Model,
    texts: Texts,
    wanted: Sequence[Wanted],
    *,
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
) -> list[Transcoder]:
    """Train dictionaries on one stream of activations, and give them in the order in which they were asked for.

    Each has a `history`. The same arguments give the same dictionaries to the last bit.

    Args:
        model: the model, as it is. The forward stops at the last site that is needed.
        texts: texts, rows of a data set, or token ids (n,) or (chunk, pos).
        wanted: the dictionaries. Their recipes have one batch size.
        tokens: how many to take of the texts; None for all.
        epochs: how often to go through them.
        length: how many tokens the model reads together.
        per_shard: how many tokens' activations are held and shuffled together.
        skip_first: how many tokens to leave out at the beginning of each: the first is like nothing else. What marks
            the beginning or end of a text, and padding, is left out wherever it stands.
        held_out: how many chunks, at equal distances, not to learn from. On them it is seen what each dictionary
            explains, beside the best linear map, and how much of the model's loss it spares; 0 for none.
        look_every: steps from one such look to the next; there is one at the end, too.
        folder: where to keep a checkpoint, written every minute. A training that is begun again with the same folder
            goes on from there, and ends as if it had not been interrupted, to the last bit.
        cache: where to keep the activations, so that other trainings find them.
        on_step: called with a `History` for each dictionary after every step.
        progress: called with the share done of the activations that are held together, while they are read.
        accelerator: accelerate's, for many processes: each reads its share of the text and learns from its share of
            every batch. Where `accelerate launch` started the process, one is made.

    Memory: a shard's activations, 4 bytes for each number, and 4 times the weights of every dictionary. Raises
    `ValueError` where there are fewer tokens than one batch, and for a folder of another training; `LoadError` for a
    spoilt checkpoint.

    >>> recipe = Recipe(4096, k=32, skip=True)                                            # doctest: +SKIP
    >>> [tc] = train(model, texts, [Wanted(("mlp_in", 15), ("mlp_out", 15), recipe)])     # doctest: +SKIP
    """
    if not wanted or len({each.recipe.batch for each in wanted}) > 1:
        raise ValueError("say at least one dictionary, and one batch size for all of them.")
    processes = Processes(accelerated(accelerator))
    learned, unseen = _apart(chunks_of(model, texts, length, tokens).ids, held_out)
    shards = Shards(
        model,
        learned,
        tuple(dict.fromkeys(site for each in wanted for site in each.sites)),
        per_shard=max(per_shard, wanted[0].recipe.batch),
        skip=skip_first,
        folder=None if cache is None else Path(cache),
        seed=wanted[0].recipe.seed,
        progress=progress,
        processes=processes,
    )
    seen = None if unseen is None else HeldOut(model, unseen, [each.sites for each in wanted], skip_first)
    belongs = {
        "model": str(model.provenance),
        "text": sha256(learned.numpy().tobytes()).hexdigest(),
        "held-out text": None if unseen is None else sha256(unseen.numpy().tobytes()).hexdigest(),
        "epochs": epochs,
        "tokens per shard": per_shard,
        "tokens skipped": skip_first,
        "steps between looks": look_every,
        "dictionaries": [*map(repr, wanted)],
    }
    checkpoint = None if folder is None else Checkpoint(Path(folder), belongs)
    run = _Run(wanted, shards, epochs, seen, look_every, checkpoint)
    run.to_the_end(on_step)
    identity = Identity.of(model) if model.anatomy.is_language_model else None
    about = {
        "model": model.provenance,
        "tokens": shards.tokens,
        "epochs": epochs,
        "length": length,
        "skip_first": skip_first,
    }
    return [run.made(n, about, identity) for n in range(len(wanted))]


def _apart(ids: Tensor, held_out: int) -> tuple[Tensor, Tensor | None]:
    """The chunks to learn from, and those to look at."""
    if held_out >= len(ids):
        raise ValueError(f"of {len(ids)} chunks of text, {held_out} cannot be held out: give more, or held_out=0.")
    if not held_out:
        return ids, None
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[torch.arange(held_out) * len(ids) // held_out] = True
    return ids[~chosen], ids[chosen]


class _Run:
    """One training of one or several dictionaries, with its place in the text."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        shards: Shards,
        epochs: int,
        seen: HeldOut | None,
        look_every: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.wanted, self.shards, self.epochs, self.checkpoint = wanted, shards, epochs, checkpoint
        self.seen, self.look_every, self.processes = seen, look_every, shards.processes
        self.batch = wanted[0].recipe.batch
        self.steps = epochs * sum(size // self.batch for size in shards.sizes)
        if not self.steps:
            raise ValueError(f"{shards.tokens:,} tokens are not one batch of {self.batch:,}: give more text.")
        self.share = self.processes.share(self.batch)
        self.trainings: list[Training] = []
        self.records: list[Record] = []

    def to_the_end(self, on_step: Callable[[list[History]], object] | None) -> None:
        """Take all steps that are left."""
        first = self.processes.rank == 0
        if not first:
            self.processes.wait()  # for the first process to have the folder
        with self.checkpoint.alone() if self.checkpoint is not None and first else nullcontext():
            if first:
                self.processes.wait()
            self._set_up(None if self.checkpoint is None else self.checkpoint.read())
            self.processes.wait()  # until every process has read what is about to be replaced
            for given in self._batches(self.trainings[0].done):
                self._step(given)
                done = self.trainings[0].done
                if done % self.look_every == 0 or done == self.steps:
                    self._look(done)
                if self.checkpoint is not None and first and (self.checkpoint.is_due() or done == self.steps):
                    self.checkpoint.write(self._states())
                if on_step is not None and first:
                    on_step([self.history(n) for n in range(len(self.wanted))])
        self.processes.wait()

    def history(self, number: int) -> History:
        """What one dictionary's training has seen so far."""
        return self.records[number].history(self.trainings[number].density)

    def made(self, number: int, about: dict[str, Any], identity: Identity | None) -> Transcoder:
        """One of the dictionaries, as it came to be."""
        each = self.wanted[number]
        transcoder = self.trainings[number].dictionary(each.reads, each.writes, about)
        transcoder.identity, transcoder.history = identity, self.history(number)
        return transcoder

    def _set_up(self, states: list[dict[str, Tensor]] | None) -> None:
        sample = self.shards[0] if states is None else {}
        for number, each in enumerate(self.wanted):
            reads, writes = each.sites
            record = Record(str(each), self.steps)
            if states is None:
                widths = sample[reads].shape[1], sample[writes].shape[1]
                training = self._training(each, *widths).begin(sample[reads], sample[writes])
                if self.seen is not None:
                    record.linear = self.seen.linear(training, reads, writes)
            else:
                state = _parts(states[number], "training.")
                widths = (len(state[f"scaling.{at}.mean"]) for at in "xy")
                training = self._training(each, *widths).resume(state)
                record.resume(_parts(states[number], "record."))
            self.trainings.append(training)
            self.records.append(record)

    def _training(self, each: Wanted, d_in: int, d_out: int) -> Training:
        reads, writes = each.sites
        return Training(
            each.recipe,
            d_in,
            d_out,
            tied=reads == writes,
            steps=self.steps,
            device=self.shards.model.device,
            processes=self.processes,
        )

    def _states(self) -> list[dict[str, Tensor]]:
        return [
            {f"training.{name}": tensor for name, tensor in training.state().items()}
            | {f"record.{name}": tensor for name, tensor in record.state().items()}
            for training, record in zip(self.trainings, self.records, strict=True)
        ]

    def _batches(self, done: int) -> Iterator[dict[Site, Tensor]]:
        """This process's share of the batches after those that are done; of shards that are done, nothing is read."""
        before, sizes = 0, self.shards.sizes
        for epoch in range(self.epochs):
            for number, size in enumerate(sizes):
                count = size // self.batch
                if before + count > done:
                    noise = torch.Generator().manual_seed(epoch * 1_000_003 + number)
                    order = torch.randperm(size, generator=noise)
                    for at in range(max(0, done - before), count):
                        rows = order[at * self.batch : (at + 1) * self.batch][self.share]
                        yield {site: tensor[rows] for site, tensor in self.shards[number].items()}
                before += count

    def _step(self, given: dict[Site, Tensor]) -> None:
        for training, record, each in zip(self.trainings, self.records, self.wanted, strict=True):
            reads, writes = each.sites
            record.add(training.step(given[reads], given[writes]))

    def _look(self, done: int) -> None:
        if self.seen is not None:
            for training, record, each in zip(self.trainings, self.records, self.wanted, strict=True):
                record.look(self.seen.look(training.dictionary(each.reads, each.writes), done))


def _parts(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
