"""Shards: the activations of a corpus at some sites, a shuffled part of it at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike, SiteUnavailable
from lenskit.transcoders.transcoder import as_sites

_TOGETHER = 1024  # tokens in one forward


class Shards:
    """The activations (token, d) of a model's sites on a corpus, in shards of which each is shuffled by itself.

    Each shard depends on the corpus and the seed alone, so that any can be made anew: a training that was interrupted
    goes on in the middle. The forward stops at the last site that is needed.

    Args:
        model: the model. Its own edits are part of what it computes.
        ids: (chunk, pos) token ids without padding, such as `lenskit.data.chunked` makes.
        sites: which; those of one layer or of several.
        per_shard: how many tokens are held and shuffled together, at most.
        skip: how many tokens at the beginning of each chunk are left out: the first is the attention's sink, and like
            nothing else.
        folder: where to keep shards on disk, so that another training finds them; None keeps none.
        seed: of the shuffling, of chunks among shards and of tokens within each.

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
    ) -> None:
        if ids.dim() != 2 or not 0 <= skip < ids.shape[1]:
            raise ValueError(f"ids are (chunk, pos), with more than skip={skip} tokens in each; these are {ids.shape}.")
        self.model, self.ids, self.skip, self.folder, self.seed = model, ids, skip, folder, seed
        self.sites = as_sites(sites)
        for site in self.sites:
            model.anatomy.spot(site)  # raises with the reason
        self._order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        self._chunks = max(1, per_shard // (ids.shape[1] - skip))

    def __len__(self) -> int:
        return -(-len(self.ids) // self._chunks)

    @property
    def tokens(self) -> int:
        """How many tokens there are in all shards."""
        return len(self.ids) * (self.ids.shape[1] - self.skip)

    @property
    def sizes(self) -> list[int]:
        """How many tokens each shard has."""
        each, rest = self.ids.shape[1] - self.skip, len(self.ids)
        return [min(self._chunks, rest - begin) * each for begin in range(0, rest, self._chunks)]

    def __getitem__(self, number: int) -> dict[Site, Tensor]:
        """The activations of one shard, (token, d) at each site, their tokens in one and the same order."""
        if not 0 <= number < len(self):
            raise IndexError(f"shard {number} does not exist: there are {len(self)}.")
        path = None if self.folder is None else self.folder / f"{self._name(number)}.safetensors"
        if path is not None and path.exists():
            stored = load_file(path)
            return {site: stored[str(site)] for site in self.sites}
        made = self._made(number)
        if path is not None:
            with whole_file(path) as scratch:
                save_file({str(site): tensor for site, tensor in made.items()}, scratch)
        return made

    def _made(self, number: int) -> dict[Site, Tensor]:
        chosen = self.ids[self._order[number * self._chunks : (number + 1) * self._chunks]]
        parts: dict[Site, list[Tensor]] = {site: [] for site in self.sites}
        last = self._last_site()
        for some in chosen.split(max(1, _TOGETHER // self.ids.shape[1])):
            run = self.model.run(some, keep=self.sites, stop_at=last)
            for site in self.sites:
                parts[site].append(_flat(run[site][:, self.skip :], site))
        count = len(chosen) * (self.ids.shape[1] - self.skip)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + number))
        return {site: torch.cat(tensors)[order] for site, tensors in parts.items()}

    def _last_site(self) -> Site:
        anatomy = self.model.anatomy
        return max(self.sites, key=lambda site: anatomy.order.times(anatomy.spot(site).point)[-1:])

    def _name(self, number: int) -> str:
        """What a shard is called on disk: all that it depends on goes into it."""
        told = [self.model.provenance, [*map(str, self.sites)], self.skip, self.seed, self._chunks, number]
        digest = hashlib.sha256(repr(told).encode())
        digest.update(self.ids.numpy().tobytes())
        return digest.hexdigest()[:32]


def _flat(tensor: Tensor, site: Site) -> Tensor:
    """(batch, pos, ...) as (token, d): heads side by side."""
    if site.name in ("scores", "pattern"):
        raise SiteUnavailable(f"{site} has a number for each pair of tokens, and a dictionary reads single tokens.")
    return tensor.flatten(2).flatten(0, 1).float()
