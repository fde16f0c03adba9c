"""A training of two dictionaries in a process of its own, for tests that kill it or start several.

python -m tests.transcoders.training_process OUT FOLDER EPOCHS [REVIVAL KIND]
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import lenskit.transcoders.checkpoint
from lenskit.models.model import Model
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.train import Wanted, train
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny

READS, WRITES, STREAM = ("mlp_in", 1), ("mlp_out", 1), ("resid_post", 0)
STEPS_AN_EPOCH = 8  # of 40 chunks 8 are held out; 32 of 16 tokens each are 8 batches of 64


def model() -> Model:
    return Model(tiny("llama", layers=3), name="tiny")


def ids(chunks: int = 40, length: int = 17) -> Tensor:
    return torch.randint(1, 90, (chunks, length), generator=torch.Generator().manual_seed(3))


def wanted(seed: int = 0, revival: str = "aux-k", kind: str = "batchtopk") -> list[Wanted]:
    """A skip transcoder and an autoencoder, both of which revive features from early on."""
    shared: Any = {"batch": 64, "lr": 3e-3, "seed": seed, "revival": revival, "dead_after": 300, "aux_k": 16}
    activation: Any = {"activation": kind}
    return [
        Wanted(READS, WRITES, Recipe(96, k=6, skip=True, **shared)),
        Wanted(STREAM, STREAM, Recipe(64, k=4, sparsity=1e-2, **shared, **activation)),
    ]


def dictionaries(folder: Path | None, epochs: int, revival: str = "aux-k", kind: str = "batchtopk") -> list[Transcoder]:
    """Trained in `folder`, with a checkpoint after every step; the text comes in two shards."""
    torch.set_num_threads(1)
    lenskit.transcoders.checkpoint.EVERY = 0.0
    made = wanted(revival=revival, kind=kind)
    return train(model(), ids(), made, epochs=epochs, per_shard=256, look_every=5, folder=folder)


def everything(made: list[Transcoder]) -> dict[str, Tensor]:
    """All that a training gives: the dictionaries' weights, and their histories."""
    found = dict[str, Tensor]()
    for number, each in enumerate(made):
        history = each.history
        assert history is not None
        curves = {name: getattr(history, name) for name in ("explained", "active", "dead", "loss", "density")}
        found |= {f"{number}.{name}": tensor.detach().clone() for name, tensor in each.state_dict().items()}
        found |= {f"{number}.{name}": torch.from_numpy(array.copy()) for name, array in curves.items()}
        found[f"{number}.looks"] = torch.tensor(history.looks, dtype=torch.float64)
        found[f"{number}.linear"] = torch.tensor(history.linear, dtype=torch.float64).nan_to_num(-1)
    return found


def main(out: str, folder: str, epochs: str, revival: str = "aux-k", kind: str = "batchtopk") -> None:
    made = dictionaries(Path(folder), int(epochs), revival, kind)
    if os.environ.get("RANK", "0") == "0":
        save_file(everything(made), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
