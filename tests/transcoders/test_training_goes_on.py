"""A training killed at any moment goes on from its checkpoint, and ends as if nothing had happened, to the last bit.

LENSKIT_ALL_RUNS=1 kills it at 20 moments; otherwise at 3.
"""

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lenskit as lk
import lenskit.transcoders.checkpoint
from lenskit.transcoders.checkpoint import FILE, Checkpoint
from lenskit.transcoders.train import train
from tests.transcoders.training_process import STEPS_AN_EPOCH, dictionaries, everything, ids, main, model, wanted

KILLS = 20 if os.environ.get("LENSKIT_ALL_RUNS") else 3
EPOCHS = 3 * KILLS

# Each training is a process of its own, forked from one that has torch imported: what is killed is the work.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.transcoders.training_process"])


def started(out: Path, folder: Path) -> BaseProcess:
    process = PROCESSES.Process(target=main, args=(str(out), str(folder), str(EPOCHS)))
    process.start()
    return process


def steps_done(folder: Path) -> int:
    found = Checkpoint(folder, {}).read()
    return 0 if found is None else int(found[0]["training.done"])


def test_killed_at_random_moments_it_ends_the_same_to_the_last_bit(tmp_path: Path) -> None:
    folder, out = tmp_path / "training", tmp_path / "killed.safetensors"
    for kill in range(KILLS):
        process, before = started(out, folder), steps_done(folder)
        while process.is_alive() and steps_done(folder) == before:  # the first sign of life
            time.sleep(0.005)
        time.sleep(random.Random(kill).uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert before < steps_done(folder) < EPOCHS * STEPS_AN_EPOCH, "it is to be killed in the middle of its work"
    assert not out.exists()
    last = started(out, folder)
    last.join()
    assert last.exitcode == 0
    whole, killed = everything(dictionaries(tmp_path / "whole", EPOCHS)), load_file(out)
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    assert [path.name for path in folder.glob("*.safetensors")] == [FILE]
    assert not list(folder.glob("*.scratch")), "what a killed process left half-written is taken away"


@pytest.mark.parametrize("revival", ["ghost gradients", "resample"])
@pytest.mark.parametrize("stop", [1, 4, 5, 9, 15])
def test_stopped_after_any_step_it_goes_on_to_the_same_dictionaries(
    tmp_path: Path, stop: int, revival: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def until(histories: list) -> None:
        if histories[0].step == stop:
            raise Enough

    monkeypatch.setattr(lenskit.transcoders.checkpoint, "EVERY", 0.0)
    arguments: dict[str, Any] = {"epochs": 2, "per_shard": 256, "look_every": 5}
    asked = wanted(revival=revival, kind="jumprelu")
    whole = train(model(), ids(), asked, **arguments)
    with pytest.raises(Enough):
        train(model(), ids(), asked, folder=tmp_path, on_step=until, **arguments)
    assert steps_done(tmp_path) == stop
    again = train(model(), ids(), asked, folder=tmp_path, **arguments)
    for a, b in zip(everything(whole).values(), everything(again).values(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_training_is_not_done_again_and_reads_nothing(tmp_path: Path) -> None:
    first = dictionaries(tmp_path, 1)
    stamp, m = (tmp_path / FILE).stat().st_mtime_ns, model()

    def no_more(*_: object) -> None:
        raise AssertionError("it stepped")

    arguments: dict[str, Any] = {"epochs": 1, "per_shard": 256, "look_every": 5, "folder": tmp_path, "on_step": no_more}
    again = train(m, ids(), wanted(), progress=no_more, **arguments)
    assert torch.equal(first[0].W_dec, again[0].W_dec)
    assert again[0].history is not None
    assert again[0].history.step == STEPS_AN_EPOCH
    assert (tmp_path / FILE).stat().st_mtime_ns == stamp


def test_a_checkpoint_of_another_training_is_refused_with_what_differs(tmp_path: Path) -> None:
    train(model(), ids(), wanted(), folder=tmp_path)
    with pytest.raises(ValueError, match=r"another training: its dictionaries are others.* Choose another folder"):
        train(model(), ids(), wanted(seed=1), folder=tmp_path)
    with pytest.raises(ValueError, match=r"its text, held-out text, epochs are others"):
        train(model(), ids()[:, 1:], wanted(), folder=tmp_path, epochs=2, held_out=8)


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(lk.LoadError, match=r"cannot be read: .* Take it away to begin anew"):
        train(model(), ids(), wanted(), folder=tmp_path)
