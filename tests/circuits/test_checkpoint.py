"""An attribution killed at any moment goes on from its checkpoint, and ends the same, to the last bit.

LENSKIT_ALL_RUNS=1 kills it at 20 moments; otherwise at 2.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute, attribution
from lenskit.circuits.attributing.checkpoint import Checkpoint
from lenskit.circuits.graph import FEATURE, Graph
from tests.circuits.made_up import transcoder
from tests.circuits.same import assert_same
from tests.models.tiny import tiny

KILLS = 20 if os.environ.get("LENSKIT_ALL_RUNS") else 2
FEATURES = 60 * KILLS
IDS = torch.randint(1, 131, (1, 16), generator=torch.Generator().manual_seed(3))

# Each attribution is a process of its own, forked from one that has torch imported: what is killed is the work.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.circuits.test_checkpoint"])


@cache
def model() -> lk.Model:
    return lk.Model(tiny("gpt2"))


@cache
def given() -> tuple[lk.Transcoder, ...]:
    return (transcoder(model(), 0, kind="topk", skip=True),)


def graph(checkpoint: Path | None = None, **changes: Any) -> Graph:
    asked: dict[str, Any] = {"target": [40, 50], "features": 30, "batch": 2}
    asked |= {"model": model(), "prompt": IDS, "transcoders": given()} | changes
    return attribute(**asked, checkpoint=checkpoint)


def main(out: str, checkpoint: str) -> None:
    """What the processes do."""
    torch.set_num_threads(1)
    graph(Path(checkpoint), features=FEATURES).save(out)


def rows_in(path: Path) -> int:
    """How many rows a checkpoint has; none where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return file.get_slice("targets").get_shape()[0]


class Enough(Exception):
    pass


def stopped_after(features: int, checkpoint: Path, **changes: Any) -> None:
    """The work as far as so many features: it stops by an exception."""

    def progress(done: int, of: int) -> None:
        if done >= features:
            raise Enough

    with pytest.raises(Enough):
        graph(checkpoint, progress=progress, **changes)


def left_in(folder: Path) -> list[str]:
    """What is there but for the lock, which the operating system lets go of by itself."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_killed_at_random_moments_it_ends_the_same_to_the_last_bit(tmp_path: Path) -> None:
    folder, out = tmp_path / "work", tmp_path / "graph.safetensors"
    checkpoint = folder / "circuit"

    def started() -> BaseProcess:
        process = PROCESSES.Process(target=main, args=(str(out), str(checkpoint)))
        process.start()
        return process

    for kill in range(KILLS):
        process, before = started(), rows_in(checkpoint)
        while process.is_alive() and rows_in(checkpoint) == before:  # the first sign of life
            time.sleep(0.002)
        time.sleep(random.Random(kill).uniform(0, 0.08))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert before < rows_in(checkpoint) < FEATURES, "it is to be killed in the middle of its work"
    assert not out.exists()
    last = started()
    last.join()
    assert last.exitcode == 0
    killed = Graph.load(out)
    assert len(killed.of_kind(FEATURE)) == FEATURES
    assert_same(killed, Graph.load(graph(features=FEATURES).save(tmp_path / "whole.safetensors")))
    assert left_in(folder) == []


@pytest.mark.parametrize("stop", [2, 6, 8, 22, 28])
def test_stopped_after_any_batch_it_goes_on_to_the_same_graph(tmp_path: Path, stop: int) -> None:
    """In the middle of a round too: what was chosen for it is still what is next."""
    path = tmp_path / "circuit"
    stopped_after(stop, path)
    assert rows_in(path) == 2 + stop
    seen = list[int]()
    again = graph(path, progress=lambda done, of: seen.append(done))
    assert seen == list(range(stop + 2, 31, 2)), "what was explained is not explained again"
    assert_same(again, graph())
    assert left_in(tmp_path) == []


def test_it_can_go_on_in_other_batches_and_to_more_or_fewer(tmp_path: Path) -> None:
    path = tmp_path / "circuit"
    for features in (4, 18, 40):
        stopped_after(14, path)
        made = graph(path, batch=5, features=features)
        assert len(made.of_kind(FEATURE)) == max(14, features)
        assert left_in(tmp_path) == []


OTHERS: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": IDS.flip(1)},
    "target": {"target": [50, 40]},
    "difference": {"target": 40, "versus": 50},
    "pos": {"pos": 12},
    "width": {"width": 17},
    "whole_first": {"whole_first": False},
    "no dictionary": {"transcoders": ()},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_work_on_another_question_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "circuit"
    stopped_after(4, path)
    kept = path.read_bytes()
    with pytest.raises(ValueError, match="holds the work on another prompt, model or question: name another"):
        graph(path, **OTHERS[what])
    assert path.read_bytes() == kept, "it is left as it was"
    assert len(graph(path).of_kind(FEATURE)) == 30


def test_the_work_with_another_model_edit_or_dictionary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "circuit"
    stopped_after(4, path)
    with pytest.raises(ValueError, match="another prompt, model or question"):
        graph(path, model=lk.Model(tiny("gpt2", seed=1)))
    with model().edit(lk.Scale("attn_out", 0.5, layers=1)), pytest.raises(ValueError, match="another prompt, model"):
        graph(path)
    with pytest.raises(ValueError, match="another prompt, model or question"):
        graph(path, neurons=False)
    for name in ("W_enc", "W_dec", "b_dec", "W_skip"):  # each looks the same, and gives another graph
        other = transcoder(model(), 0, kind="topk", skip=True)
        getattr(other, name).mul_(1.01)
        with pytest.raises(ValueError, match="another prompt, model or question"):
            graph(path, transcoders=other)


def test_a_file_that_is_spoilt_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "circuit"
    stopped_after(4, path)
    whole = path.read_bytes()
    for spoilt in (b"", b"nothing of the kind", whole[: len(whole) // 2], whole[:-1], b"\xff" * 8 + whole[8:]):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="circuit is no checkpoint of an attribution: "):
            graph(path)
    save_file({"targets": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="circuit holds the work on another"):
        graph(path)


def test_what_lacks_a_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "circuit"
    stopped_after(4, path)
    with safe_open(path, "pt") as file:
        about, names = file.metadata(), list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    for name in names:
        save_file({other: tensor for other, tensor in tensors.items() if other != name}, path, about)
        with pytest.raises(ValueError, match=f"is no checkpoint of an attribution: .*{name}"):
            graph(path)


def test_interrupted_while_writing_the_last_whole_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "circuit"
    stopped_after(6, path)
    kept = path.read_bytes()

    def no_room(tensors: object, where: Path, about: object) -> None:
        where.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr("lenskit.circuits.attributing.checkpoint.save_file", no_room)
    with pytest.raises(OSError, match="No space left"):
        graph(path)
    assert path.read_bytes() == kept
    assert left_in(tmp_path) == ["circuit"]
    monkeypatch.undo()
    assert_same(graph(path), graph())


def test_what_a_killed_process_left_half_written_is_taken_away(tmp_path: Path) -> None:
    half = tmp_path / ".circuit.abc.scratch" / "new"
    half.mkdir(parents=True)
    (half / "circuit").write_bytes(b"half of it")
    assert_same(graph(tmp_path / "circuit"), graph())
    assert left_in(tmp_path) == []


def test_a_checkpoint_holds_what_is_known_and_what_is_next(tmp_path: Path) -> None:
    first, second = (attribution(model(), IDS, given(), [40, 50], batch=2) for _ in range(2))
    kept = Checkpoint(tmp_path / "circuit")
    kept.restore(second)  # there is nothing yet
    assert second.features_done == 0
    for done, _ in first.go_on(30):
        if done == 12:
            break
    kept.keep(first)
    kept.restore(second)
    assert_same(first.graph, second.graph)
    assert first.next == second.next
    kept.remove()
    kept.remove()  # it may be gone already
    assert not (tmp_path / "circuit").exists()
