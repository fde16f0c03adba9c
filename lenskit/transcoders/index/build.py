"""Building an index: one pass over a corpus, from where the last was interrupted, and a few products after it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from lenskit.artifacts import SCRATCH, only_one_process, whole_file
from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import Identity
from lenskit.models.model import Model
from lenskit.models.sites import SiteLike
from lenskit.transcoders.index import files
from lenskit.transcoders.index.bases import Basis, Neurons, active, as_basis, fingerprint, reads, width_of, writes
from lenskit.transcoders.index.files import Mapped
from lenskit.transcoders.index.finishing import finished
from lenskit.transcoders.index.gathering import Gathering
from lenskit.transcoders.index.pairs import AFTER, BEFORE
from lenskit.transcoders.index.progress import Progress, Stage, telling

EVERY = 60.0  # seconds between two checkpoints
_TOGETHER = 1024  # tokens in one forward
_PAIRS = 1 << 20  # activations that are sorted at once: whole batches, until there are so many


@dataclass(frozen=True)
class Sizes:
    """How much is kept of each feature, and how the corpus is read: see `FeatureIndex.build`."""

    length: int
    skip: int
    top: int
    bands: int
    per_band: int
    bins: int

    def __post_init__(self) -> None:
        for name in ("top", "bands", "per_band"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}.")
        if self.bins < 4 or self.bins & (self.bins - 1):
            raise ValueError(f"bins is a power of two, at least 4, since ranges grow by doubling: not {self.bins}.")
        if not 0 <= self.skip < self.length:
            raise ValueError(f"skip={self.skip} of {self.length} tokens of each chunk leaves none to look at.")


def build(
    model: Model,
    basis: Basis | SiteLike | Path,
    texts: Texts,
    folder: Path,
    tokens: int | None,
    sizes: Sizes,
    on_progress: Callable[[Progress], object] | None,
) -> Basis:
    """Make an index in a folder, or go on making it, or find it made, and give its basis; see `FeatureIndex.build`."""
    basis, place = as_basis(basis, model)
    ids = chunks_of(model, texts, sizes.length, tokens).ids
    sizes = Sizes(**{**vars(sizes), "length": ids.shape[1]})
    about = _about(model, basis, place, ids.numpy().astype(np.uint32), sizes)
    folder.mkdir(parents=True, exist_ok=True)
    with only_one_process(folder / files.ABOUT), telling(on_progress) as tell:
        for abandoned in folder.glob(f".*{SCRATCH}"):  # by a process that was killed as it wrote
            shutil.rmtree(abandoned)
        if (folder / files.ABOUT).exists():
            _check(files.read_about(folder)["belongs"], about["belongs"], folder)
            return basis
        reading = _Reading(model, basis, ids.numpy().astype(np.uint32), about, folder / files.UNFINISHED)
        reading.run(Stage("reading", about["tokens"], reading.tokens_done, tell))
        finishing = Stage("finishing", 100, 0, tell)
        arrays, lacks = finished(
            model, basis, reading.gathering, about, lambda share: finishing.reached(round(100 * share))
        )
        files.write(folder, arrays, {**about, "lacks": lacks})
        (folder / files.UNFINISHED).unlink(missing_ok=True)
    return basis


class _Reading:
    """The pass over the corpus. Checkpoints lie where what was buffered has been sorted in: anywhere else in a corpus
    two attempts would sum up in another order.
    """

    def __init__(self, model: Model, basis: Basis, ids: np.ndarray, about: dict[str, Any], checkpoint: Path) -> None:
        self.model, self.basis, self.ids, self.about, self.checkpoint = model, basis, ids, about, checkpoint
        self.gathering = Gathering(
            about["n_features"], ids, top=about["top"], per_band=about["per_band"], bins=about["bins"]
        )
        self.done = 0  # chunks
        self._written = time.monotonic()
        if checkpoint.exists():
            self._resume()

    @property
    def tokens_done(self) -> int:
        """How many positions were seen."""
        return self.done * (self.about["length"] - self.about["skip"])

    def run(self, stage: Stage) -> None:
        """Read the rest of the corpus."""
        buffer, held = list[tuple[np.ndarray, ...]](), 0
        per_batch = max(1, _TOGETHER // self.ids.shape[1])
        for begin in range(self.done, len(self.ids), per_batch):
            batch = self.ids[begin : begin + per_batch]
            buffer.append(self._activations(begin, batch))
            held += len(buffer[-1][0])
            self.done = begin + len(batch)
            if held >= _PAIRS or self.done == len(self.ids):
                self.gathering.add(*(np.concatenate(parts) for parts in zip(*buffer, strict=True)))
                buffer, held = [], 0
                self._write_now_and_then()
            stage.reached(self.tokens_done)

    @torch.no_grad()
    def _activations(self, first: int, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of everything active in some chunks, position by position, what `Gathering.add` is to be told."""
        site, skip, length = reads(self.basis), self.about["skip"], batch.shape[1]
        run = self.model.run(torch.from_numpy(batch.astype(np.int64)), keep=site, stop_at=site)
        x = run[site][:, skip:].flatten(0, 1)
        found = active(self.basis, x)
        row, pos = np.divmod(found.tokens.cpu().numpy(), length - skip)
        positions = ((first + row) * length + skip + pos).astype(np.uint32)
        return found.features.cpu().numpy(), positions, found.values.float().cpu().numpy(), found.strong.cpu().numpy()

    def _write_now_and_then(self) -> None:
        if time.monotonic() - self._written < EVERY:
            return
        state = {name: np.ascontiguousarray(array) for name, array in self.gathering.state().items()}
        state["done"] = np.array([self.done])
        with whole_file(self.checkpoint) as unfinished:
            save_file(state, unfinished, metadata={"belongs": self.about["belongs"]})
        self._written = time.monotonic()

    def _resume(self) -> None:
        stored = Mapped(self.checkpoint)
        _check(stored.about.get("belongs", ""), self.about["belongs"], self.checkpoint.parent)
        try:
            self.gathering.resume(stored)
            self.done = int(stored["done"][0])
        except LookupError as error:
            raise LoadError(f"{self.checkpoint} lacks {error}: take it away to begin anew.") from error


def _about(model: Model, basis: Basis, place: str | None, ids: np.ndarray, sizes: Sizes) -> dict[str, Any]:
    """What an index says of itself; `belongs` is different for any other index."""
    kind: dict[str, Any] = {
        "kind": "neurons" if isinstance(basis, Neurons) else "dictionary",
        "name": str(basis),
        "reads": str(reads(basis)),
        "writes": [str(site) for site in writes(basis)],
        "place": place,
        "negative": isinstance(basis, Neurons) and basis.negative,
        "fingerprint": fingerprint(basis),
    }
    about: dict[str, Any] = {
        **vars(sizes),
        "n_features": width_of(model, basis.site) if isinstance(basis, Neurons) else basis.n_features,
        "tokens": len(ids) * (sizes.length - sizes.skip),
        "window": BEFORE + 1 + AFTER,
        "basis": kind,
        "identity": Identity.of(model).as_dict(),
        "provenance": {**model.provenance, "text": hashlib.sha256(ids.data).hexdigest(), "chunks": len(ids)},
    }
    told = {**about, "basis": {**kind, "place": None}}
    return {**about, "belongs": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}


def _check(found: str, wanted: str, folder: Path) -> None:
    if found != wanted:
        raise ValueError(
            f"{folder} holds an index of something else: of another basis, model, text or sizes. Choose another "
            "folder, or take that one away."
        )
