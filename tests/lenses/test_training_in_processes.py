"""Two processes, each with half of every step's chunks, train the lens that one trains with all of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.lenses.training_process import lens_of

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def two_processes(module: str, *arguments: Path) -> None:
    """What `accelerate launch --cpu --num_processes 2 -m` sets, set by hand, with gloo between the two."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


def test_two_processes_train_the_same_lens_as_one(tmp_path: Path) -> None:
    lens_of(None).save(tmp_path / "one.safetensors")
    two_processes("tests.lenses.training_process", tmp_path / "two.safetensors", tmp_path / "training")
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    for name in ("weight", "bias"):
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    assert not torch.equal(two["weight"], torch.zeros_like(two["weight"]))


def test_a_model_sharded_over_two_processes_is_trained_for_as_a_whole_one(tmp_path: Path) -> None:
    lens_of(None).save(tmp_path / "one.safetensors")
    two_processes("tests.lenses.sharded_process", tmp_path / "sharded.safetensors")
    one, sharded = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "sharded.safetensors")
    for name in ("weight", "bias"):
        torch.testing.assert_close(sharded[name], one[name], rtol=0, atol=1e-5)
