"""Training on a model's own activations: what goes in, that it goes on where it stopped, and what comes of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.shards import Shards
from lenskit.transcoders.train import Wanted, train
from lenskit.transcoders.training import Report
from tests.models.tiny import tiny

READS, WRITES = ("mlp_in", 1), ("mlp_out", 1)


def model() -> Model:
    return Model(tiny("llama", layers=3), name="tiny")


def ids(chunks: int = 40, length: int = 17) -> torch.Tensor:
    return torch.randint(1, 90, (chunks, length), generator=torch.Generator().manual_seed(3))


def test_shards_hold_each_token_once_at_every_site_in_one_order_and_no_first_token() -> None:
    m, given = model(), ids()
    shards = Shards(m, given, [READS, WRITES], per_shard=100)
    run = m.run(given, keep=[READS, WRITES])
    expected = [
        (tuple(a), tuple(b))
        for a, b in zip(
            run[READS][:, 1:].flatten(0, 1).round(decimals=3).tolist(),
            run[WRITES][:, 1:].flatten(0, 1).round(decimals=3).tolist(),
            strict=True,
        )
    ]
    found = []
    for number in range(len(shards)):
        shard = shards[number]
        found += [
            (tuple(a), tuple(b))
            for a, b in zip(
                shard[Site(*READS)].round(decimals=3).tolist(),
                shard[Site(*WRITES)].round(decimals=3).tolist(),
                strict=True,
            )
        ]
        assert len(shard[Site(*READS)]) == shards.sizes[number] <= 100
    assert len(found) == shards.tokens == 40 * 16
    assert sorted(found) == sorted(expected)
    assert found != expected


def test_a_shard_is_the_same_every_time_and_from_disk(tmp_path: Path) -> None:
    m = model()
    shards = Shards(m, ids(), [READS], per_shard=100, folder=tmp_path)
    first = shards[2][Site(*READS)]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    m.hf_model.model.embed_tokens.weight.data.zero_()  # what is on disk needs no model
    assert torch.equal(shards[2][Site(*READS)], first)


def test_sites_that_cannot_be_read_token_by_token_are_refused() -> None:
    with pytest.raises(SiteUnavailable, match="pair of tokens"):
        Shards(model(), ids(), [("pattern", 0)])[0]
    with pytest.raises(ValueError, match="say which"):
        Shards(model(), ids(), ["mlp_in"])


def wanted(seed: int = 0) -> list[Wanted]:
    return [
        Wanted(READS, WRITES, Recipe(96, k=6, batch=64, lr=3e-3, skip=True, seed=seed)),
        Wanted(("resid_post", 0), ("resid_post", 0), Recipe(64, k=4, batch=64, lr=3e-3, seed=seed)),
    ]


def test_several_dictionaries_learn_in_one_pass() -> None:
    reports: list[list[Report]] = []
    m, given = model(), ids(200)
    made = train(m, given, wanted(), epochs=16, on_report=reports.append)
    assert len(reports) == 16 * (200 * 16 // 64)
    run = m.run(given, keep=[READS, WRITES, ("resid_post", 0)])
    for tc, x, y in zip(made, (run[READS], run["resid_post", 0]), (run[WRITES], run["resid_post", 0]), strict=True):
        missed = (tc(x[:, 1:]) - y[:, 1:]).square().mean() / (y[:, 1:] - y[:, 1:].mean((0, 1))).square().mean()
        assert missed < 0.5
    assert made[0].about["recipe"]["n_features"] == 96
    assert (made[0].reads, made[0].writes) == (Site(*READS), (Site(*WRITES),))
    assert made[1].is_sae


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
import lenskit.transcoders.train as t
from tests.transcoders.test_train import ids, model, wanted
t.EVERY = 0.0
made = t.train(model(), ids(120), wanted(), epochs=8, per_shard=500, folder=sys.argv[1])
torch.save([each.state_dict() for each in made], sys.argv[2])
"""


def test_a_training_that_is_killed_and_begun_again_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    kills = 20 if os.environ.get("LENSKIT_ALL_RUNS") else 2
    here = {**os.environ, "PYTHONPATH": os.getcwd()}

    def begin(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / name), str(tmp_path / f"{name}.pt")], env=here
        )

    assert begin("whole").wait() == 0
    random = torch.Generator().manual_seed(0)
    for _ in range(kills):
        process = begin("killed")
        begun, checkpoint = time.monotonic(), tmp_path / "killed" / "checkpoint.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() - begun < 120
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(float(torch.rand(1, generator=random)) * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert begin("killed").wait() == 0
    whole, killed = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "killed"))
    for a, b in zip(whole, killed, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(model(), ids(), wanted(), folder=tmp_path)
    with pytest.raises(ValueError, match="another training"):
        train(model(), ids(), wanted(seed=1), folder=tmp_path)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="not one batch of 64"):
        train(model(), ids(2), wanted())
