"""A plain run keeps the model's own tensors where it can, and nobody can tell that from copies."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.sites import LAYERED
from tests.models.by_hand import FAMILIES
from tests.models.tiny import tiny


def model(family: str = "llama") -> lk.Model:
    return lk.Model(tiny(family))


@cache
def shared(family: str) -> lk.Model:
    return model(family)


def tokens(seed: int = 1) -> Tensor:
    return torch.randint(1, 131, (2, 6), generator=torch.Generator().manual_seed(seed))


def names(looked_at: lk.Model) -> list[str]:
    return [name for name in looked_at.sites if name != "logits"]


def copies(looked_at: lk.Model, ids: Tensor) -> lk.Run:
    """The same, copied at once: with positions said, a run copies what it keeps."""
    return looked_at.run(ids, keep=names(looked_at), pos=slice(None))


def same(run: lk.Run, other: lk.Run, which: list[str]) -> None:
    for name in which:
        assert torch.equal(run[name], other[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_what_a_copy_would_hold(family: str) -> None:
    looked_at, ids = shared(family), tokens()
    expected = copies(looked_at, ids)
    run = looked_at.run(ids, keep=names(looked_at))
    looked_at.run(tokens(2), keep=names(looked_at))  # later forwards change nothing in it
    looked_at.run(ids, keep=names(looked_at), edits=lk.Zero("resid_pre", layers=1))
    same(run, expected, names(looked_at))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_sites_share_their_numbers(family: str) -> None:
    looked_at, ids = shared(family), tokens()
    expected = copies(looked_at, ids)
    for name in names(looked_at):
        run = looked_at.run(ids, keep=names(looked_at))
        run[lk.Site(name, 1 if name in LAYERED else None)].fill_(7.0)
        stream = {"resid_pre", "resid_post"}  # one tensor is the end of a layer and the beginning of the next
        others = [n for n in names(looked_at) if n != name and not (n in stream and name in stream)]
        same(run, expected, others)
        assert torch.equal(run.logits, expected.logits)


class _WritesIntoIt:
    """A hook, as a person's or a careless module's own code, that changes what the module was given, in place."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls += 1
        given = args[0] if args else None
        if given is not None:
            given.mul_(1.5)


def test_what_is_written_into_afterwards_is_kept_as_it_was() -> None:
    looked_at, ids = model(), tokens()
    changed = _WritesIntoIt()
    handle = looked_at.hf_model.model.layers[1].mlp.down_proj.register_forward_hook(changed)
    expected = copies(looked_at, ids)
    changed.calls = 0
    run = looked_at.run(ids, keep="mlp_post")
    assert torch.equal(run["mlp_post"], expected["mlp_post"])
    assert changed.calls == 2, "the first time it had to be run again"
    changed.calls = 0
    again = looked_at.run(ids, keep=names(looked_at))
    assert changed.calls == 1, "and then it is known"
    same(again, expected, names(looked_at))
    handle.remove()


def test_a_model_in_training_runs_once_and_is_copied_from() -> None:
    looked_at, ids = model(), tokens()
    assert looked_at.sites
    looked_at.hf_model.train()
    changed = _WritesIntoIt()
    looked_at.hf_model.model.layers[1].mlp.down_proj.register_forward_hook(changed)
    looked_at.run(ids, keep="mlp_post")
    assert changed.calls == 1


def test_in_inference_mode_too() -> None:
    looked_at, ids = shared("llama"), tokens()
    with torch.inference_mode():
        run = looked_at.run(ids, keep=names(looked_at))
    same(run, copies(looked_at, ids), names(looked_at))


def test_only_what_was_asked_for_stays_in_memory() -> None:
    looked_at, ids = shared("gpt2"), tokens()
    for name in names(looked_at):
        site = lk.Site(name, 1 if name in LAYERED else None)
        tensor = looked_at.run(ids, keep=site)[site]
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_layers_are_stacked_when_somebody_asks() -> None:
    looked_at, ids = shared("llama"), tokens()
    run = looked_at.run(ids, keep=["resid_pre", "resid_post", "z"])
    alone = run["z", 1]
    assert torch.equal(run["z"][1], alone)
    assert torch.equal(run["resid_pre"][1:], run["resid_post"][:-1])
    assert run["resid_post"].data_ptr() == run["resid_post"].data_ptr(), "once"


# The ids that were read last


def test_the_same_ids_are_read_once() -> None:
    looked_at, ids = model(), tokens()
    assert looked_at.batch(ids).tokens is looked_at.batch(ids).tokens
    assert looked_at.batch(ids.clone()).tokens is not looked_at.batch(ids).tokens


def test_ids_that_were_written_into_are_read_again() -> None:
    looked_at, ids = model(), tokens()
    before = looked_at.run(ids)
    ids[0, 0] = 5
    after = looked_at.run(ids)
    assert int(after.tokens[0, 0]) == 5
    assert int(before.tokens[0, 0]) != 5
    ids[0, 0] = 10**6
    with pytest.raises(ValueError, match="1000000"):
        looked_at.run(ids)


def test_what_somebody_writes_into_a_run_reaches_no_other() -> None:
    looked_at, ids = model(), tokens()
    run = looked_at.run(ids)
    run.tokens[0, 0] = 3
    assert torch.equal(looked_at.run(ids).tokens, ids)
