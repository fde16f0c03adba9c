"""Two processes, each with half of every batch and half of the text to read, train the dictionaries that one trains."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lenskit.processes import Processes
from tests.lenses.test_training_in_processes import two_processes
from tests.transcoders.training_process import dictionaries, everything

# What each does over the whole batch, and not token by token: the bound of batchtopk, the scale of ghost gradients, the
# tokens to which resampling points dead features; and jumprelu and gated, whose penalties are sums.
WAYS = [("aux-k", "batchtopk"), ("ghost gradients", "relu"), ("resample", "gated"), ("aux-k", "jumprelu")]


@pytest.mark.parametrize(("revival", "kind"), WAYS)
def test_two_processes_train_the_same_dictionaries_as_one(tmp_path: Path, revival: str, kind: str) -> None:
    one = everything(dictionaries(None, 3, revival, kind))
    arguments = [tmp_path / "two.safetensors", tmp_path / "training", Path("3"), Path(revival), Path(kind)]
    two_processes("tests.transcoders.training_process", *arguments)
    two = load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], rtol=0, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    three = Processes()
    three.count = 3
    with pytest.raises(ValueError, match=r"64 tokens of a step cannot be shared by 3 processes"):
        three.share(64)
