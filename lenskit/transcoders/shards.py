"""Shards: the activations of a corpus at some sites, a shuffled part of it at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike, SiteUnavailable
from lenskit.processes import Processes
from lenskit.transcoders.transcoder import as_sites

_TOGETHER = 1024  # tokens in one forward


class Shards:
    """The activations (token, d) of a model's sites on a corpus, in shards of which each is shuffled by itself.

    Each shard depends on the corpus and the seed alone, so that any can be made anew: a training that was interrupted
    goes on in the middle. The forward stops at the last site that is needed. One shard is held in memory, as float32
    on the CPU: 4 bytes for each token and number of each site. Of many processes each reads its share of the text, and
    all have the whole shard.

    Args:
        model: the model. Its own edits are part of what it computes.
        ids: (chunk, pos) token ids, such as `lenskit.data.chunked` makes. Tokens that only mark where a text begins or
            ends and what is padding (the tokenizer's BOS, EOS and PAD) are read and left out.
        sites: which; those of one layer or of several.
        per_shard: how many tokens are held and shuffled together, at most.
        skip: how many tokens at the beginning of each chunk are left out: the first is the attention's sink, and like
            nothing else.
        folder: where to keep shards on disk, so that another training finds them; None keeps none.
        seed: of the shuffling, of chunks among shards and of tokens within each.
        progress: called with the share done of a shard that is being made.
        processes: those that work together.

    Raises `SiteUnavailable` for a site that the architecture has not, `ValueError` for ids of another shape.
    """

    def __init__(
        self,
        model: Model,
        ids: Tensor,
        sites: Sequence[SiteLike],
        *,
        per_shard: int = 1 << 17,
        skip: int = 1,
        folder: Path | None = None,
        seed: int = 0,
        progress: Callable[[float], object] | None = None,
        processes: Processes | None = None,
    ) -> None:
        if ids.dim() != 2 or not 0 <= skip < ids.shape[1]:
            raise ValueError(f"ids are (chunk, pos), with more than skip={skip} tokens in each; these are {ids.shape}.")
        self.model, self.ids, self.skip, self.folder, self.seed = model, ids, skip, folder, seed
        self.progress, self.processes = progress, processes or Processes()
        self.sites = as_sites(sites)
        for site in self.sites:
            model.anatomy.spot(site)  # raises with the reason
        self._marks = marks(model)
        self._wanted = ~torch.isin(ids, torch.tensor(self._marks, dtype=ids.dtype))
        self._wanted[:, :skip] = False
        self._order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        self._chunks = max(1, per_shard // (ids.shape[1] - skip))
        self._held: tuple[int, dict[Site, Tensor]] | None = None

    def __len__(self) -> int:
        return -(-len(self.ids) // self._chunks)

    @property
    def tokens(self) -> int:
        """How many tokens there are in all shards."""
        return int(self._wanted.sum())

    @property
    def sizes(self) -> list[int]:
        """How many tokens each shard has."""
        return [int(some.sum()) for some in self._wanted[self._order].split(self._chunks)]

    def __getitem__(self, number: int) -> dict[Site, Tensor]:
        """The activations of one shard, (token, d) at each site, their tokens in one and the same order."""
        if not 0 <= number < len(self):
            raise IndexError(f"shard {number} does not exist: there are {len(self)}.")
        if self._held is None or self._held[0] != number:
            self._held = None  # so that never two of them are in memory
            self._held = number, self._found(number)
        return self._held[1]

    def _found(self, number: int) -> dict[Site, Tensor]:
        path = None if self.folder is None else self.folder / f"{self._name(number)}.safetensors"
        there = torch.tensor(int(path is not None and path.exists()))
        if path is not None and int(self.processes.summed(there)) == self.processes.count:
            stored = load_file(path)
            return {site: stored[str(site)] for site in self.sites}
        made = self._made(number)
        if path is not None and self.processes.rank == 0:
            with whole_file(path) as scratch:
                save_file({str(site): tensor for site, tensor in made.items()}, scratch)
        return made

    def _made(self, number: int) -> dict[Site, Tensor]:
        chosen = self._order[number * self._chunks : (number + 1) * self._chunks]
        total = int(self._wanted[chosen].sum())
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        place = torch.randperm(total, generator=noise)  # of each token in the shard
        made, done = dict[Site, Tensor](), 0
        turns = chosen.split(max(1, _TOGETHER // self.ids.shape[1]))
        for turn, rows in enumerate(turns):
            wanted = self._wanted[rows].flatten()
            here = place[done : done + int(wanted.sum())]
            done += len(here)
            mine = turn % self.processes.count == self.processes.rank
            if mine or (turn == 0 and self.processes.rank >= len(turns)):  # who has no turn must know the widths
                for site, flat in self._read(rows):
                    whole = made.setdefault(site, torch.zeros(total, flat.shape[1]))
                    if mine:
                        whole[here] = flat[wanted]
            if self.progress is not None:
                self.progress((turn + 1) / len(turns))
        return {site: self.processes.summed(whole) for site, whole in made.items()}

    def _read(self, rows: Tensor) -> Iterator[tuple[Site, Tensor]]:
        """Each site of some chunks, (token, d), heads side by side."""
        run = self.model.run(self.ids[rows], keep=self.sites, stop_at=self._last_site())
        for site in self.sites:
            if site.name in ("scores", "pattern"):
                raise SiteUnavailable(
                    f"{site} has a number for each pair of tokens, and a dictionary reads single tokens."
                )
            yield site, run[site].flatten(2).flatten(0, 1).float().cpu()

    def _last_site(self) -> Site:
        anatomy = self.model.anatomy
        return max(self.sites, key=lambda site: anatomy.order.times(anatomy.spot(site).point)[-1:])

    def _name(self, number: int) -> str:
        """What a shard is called on disk: all that it depends on goes into it."""
        told = [self.model.provenance, [*map(str, self.sites)], self.skip, self._marks, self.seed, self._chunks, number]
        digest = hashlib.sha256(repr(told).encode())
        digest.update(self.ids.numpy().tobytes())
        return digest.hexdigest()[:32]


def marks(model: Model) -> list[int]:
    """The ids that stand for no text: BOS, EOS and padding, as far as the model has a tokenizer that knows them."""
    tokenizer = model.text.tokenizer
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    found = {getattr(tokenizer, name, None) for name in names} - {None}
    return sorted(each for each in found if isinstance(each, int))
