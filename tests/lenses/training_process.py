"""A training in a process of its own, for tests that kill it or start several.

python -m tests.lenses.training_process OUT FOLDER [STEPS]
"""

import os
import sys
from pathlib import Path

import torch

import lenskit as lk
from lenskit.lenses.tuned import TunedLens
from tests.models.tiny import tiny

IDS = torch.randint(131, (30, 16), generator=torch.Generator().manual_seed(7))


def lens_of(folder: Path | None, steps: int = 40) -> TunedLens:
    """The lens of a tiny model, trained in `folder`."""
    torch.set_num_threads(1)
    return trained(lk.Model(tiny("llama"), name="tiny"), folder, steps)


def trained(model: lk.Model, folder: Path | None = None, steps: int = 40) -> TunedLens:
    """Steps of 4 chunks: 40 go through the text more than five times. A checkpoint after every third."""
    return TunedLens.train(
        model, IDS, steps=steps, tokens_per_step=64, folder=folder, checkpoint_every=3, weight_decay=0.01
    )


def main(out: str, folder: str, steps: str = "40") -> None:
    lens = lens_of(Path(folder), steps=int(steps))
    if os.environ.get("RANK", "0") == "0":
        lens.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
