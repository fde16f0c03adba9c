"""A training killed at any moment goes on from its checkpoint, and ends as if nothing had happened, to the last bit.

LENSKIT_ALL_RUNS=1 kills it at 20 moments; otherwise at 3.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lenskit as lk
from lenskit.lenses.training.checkpoint import FILE, Checkpoint
from lenskit.lenses.tuned import TunedLens
from tests.lenses.training_process import IDS, lens_of
from tests.models.tiny import tiny

KILLS = 20 if os.environ.get("LENSKIT_ALL_RUNS") else 3
STEPS = 30 * KILLS
ROOT = Path(__file__).parents[2]


def started(out: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.lenses.training_process", str(out), str(folder), str(STEPS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def steps_done(folder: Path) -> int:
    found = Checkpoint.read(folder)
    return 0 if found is None else found[0].step


def test_killed_at_random_moments_it_ends_the_same_to_the_last_bit(tmp_path: Path) -> None:
    lens_of(None, steps=STEPS).save(tmp_path / "whole.safetensors")
    folder, out = tmp_path / "training", tmp_path / "killed.safetensors"
    for kill in range(KILLS):
        process, before = started(out, folder), steps_done(folder)
        # The start of Python and torch takes seconds: only from the first sign of life on is a moment random.
        while process.poll() is None and steps_done(folder) == before:
            time.sleep(0.005)
        time.sleep(random.Random(kill).uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before < steps_done(folder) < STEPS, "it is to be killed in the middle of its work"
    assert not out.exists()
    last = started(out, folder)
    assert last.wait() == 0, last.stderr.read() if last.stderr else ""
    whole, killed = load_file(tmp_path / "whole.safetensors"), load_file(out)
    assert whole.keys() == killed.keys() == {"weight", "bias"}
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert [path.name for path in folder.glob("*.safetensors")] == [FILE]
    assert not list(folder.glob("*.scratch")), "what a killed process left half-written is taken away"


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stop", [1, 3, 4, 29])
def test_stopped_after_any_step_it_goes_on_to_the_same_lens(tmp_path: Path, stop: int, optimizer: str) -> None:
    class Enough(Exception):
        pass

    def until(history: object) -> None:
        if history.step == stop:  # pyright: ignore[reportAttributeAccessIssue]
            raise Enough

    model = lk.Model(tiny("llama"), name="tiny")
    arguments = {"steps": 30, "tokens_per_step": 64, "optimizer": optimizer, "checkpoint_every": 3}
    whole = TunedLens.train(model, IDS, **arguments)
    with pytest.raises(Enough):
        TunedLens.train(model, IDS, folder=tmp_path, on_step=until, **arguments)
    assert steps_done(tmp_path) == stop // 3 * 3
    again = TunedLens.train(model, IDS, folder=tmp_path, **arguments)
    a, b = whole.translators.whole(), again.translators.whole()
    assert torch.equal(a.weight, b.weight)
    assert a.bias is not None
    assert b.bias is not None
    assert torch.equal(a.bias, b.bias)
    assert whole.history is not None
    assert again.history is not None
    assert (whole.history.losses == again.history.losses).all()


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = lens_of(tmp_path, steps=3)
    stamp = (tmp_path / FILE).stat().st_mtime_ns
    again = lens_of(tmp_path, steps=3)
    assert torch.equal(first.translators.whole().weight, again.translators.whole().weight)
    assert (tmp_path / FILE).stat().st_mtime_ns == stamp


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    lens_of(tmp_path, steps=3)
    model = lk.Model(tiny("llama"), name="tiny")
    same = {"steps": 3, "tokens_per_step": 64, "folder": tmp_path, "weight_decay": 0.01}
    with pytest.raises(ValueError, match=r"is trained with lr=0\.001 and not 0\.5, so this one cannot go on"):
        TunedLens.train(model, IDS, lr=0.5, **same)
    with pytest.raises(ValueError, match="is trained on another text"):
        TunedLens.train(model, IDS[:-1], **same)
    with pytest.raises(ValueError, match="is of another model"):
        TunedLens.train(lk.Model(tiny("llama", 1), name="tiny"), IDS, **same)


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(lk.LoadError, match=r"cannot be read: .* Take it away to begin anew"):
        lens_of(tmp_path, steps=3)
