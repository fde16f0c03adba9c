"""The same patch in run after run: nothing is remembered that may be another by the next."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import lenskit as lk
from tests.models.tiny import tiny
from tests.models.traced import nothing_left

LAYER, POS = 1, 2


def tokens(seed: int, rows: int = 1, length: int = 6) -> Tensor:
    return torch.randint(1, 131, (rows, length), generator=torch.Generator().manual_seed(seed))


def blocks(model: lk.Model) -> Any:
    return model.hf_model.model.layers


def by_hand(model: lk.Model, ids: Tensor, source: Tensor) -> Tensor:
    """The logits where `source` (batch, pos, d_model) stands at one position of what enters the block."""

    def hook(_: object, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        new = args[0].clone()
        new[:, POS] = source[:, POS].to(new.dtype)
        return (new, *args[1:])

    handle = blocks(model)[LAYER].register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            return model.hf_model(input_ids=ids).logits
    finally:
        handle.remove()


class Case:
    """A model, two prompts, and a patch of one's activation into the other's."""

    def __init__(self) -> None:
        self.model, self.ids = lk.Model(tiny("llama")), tokens(1)
        self.clean = self.model.run(tokens(2), keep="resid_pre")
        self.patch = lk.Patch("resid_pre", self.clean, layers=LAYER, pos=POS)
        self.check()

    def check(self) -> Tensor:
        """Run it as it is now, and by hand. Gives the logits."""
        run = self.model.run(self.ids, edits=self.patch)
        assert torch.equal(run.logits, by_hand(self.model, self.ids, self.clean["resid_pre", LAYER]))
        return run.logits


def written_into(case: Case) -> None:
    case.clean["resid_pre", LAYER].mul_(2)


def stacked(case: Case) -> None:
    """Asking for all layers puts them into one tensor: from then on, that is the one."""
    case.clean["resid_pre"].mul_(0.5)


def doubled(case: Case) -> None:
    case.model.hf_model.double()


def hooked(case: Case) -> None:
    blocks(case.model)[LAYER].register_forward_hook(lambda _, args, output: output * 1.5)


def hooked_before(case: Case) -> None:
    blocks(case.model)[LAYER].register_forward_pre_hook(lambda _, args: (args[0] * 1.5, *args[1:]))


def other_forward(case: Case) -> None:
    block = blocks(case.model)[LAYER]
    own = block.forward
    block.forward = lambda *args, **kwargs: own(*args, **kwargs) * 1.5


def reweighted(case: Case) -> None:
    case.model.hf_model.get_input_embeddings().weight.data.mul_(1.1)


def other_ids(case: Case) -> None:
    case.ids[0, 1] = 7


@pytest.mark.parametrize(
    "change", [written_into, stacked, doubled, hooked, hooked_before, other_forward, reweighted, other_ids]
)
def test_whatever_changes_between_two_runs_the_second_is_right(change: Callable[[Case], None]) -> None:
    case = Case()
    assert nothing_left(case.model)
    before = case.check()
    change(case)
    own = blocks(case.model)[LAYER].__dict__.get("forward")
    assert not torch.equal(case.check(), before), "the change has to make a difference, or this shows nothing"
    assert blocks(case.model)[LAYER].__dict__.get("forward") is own


def test_of_another_length_or_number_of_rows_the_same_patch_is_judged_anew() -> None:
    case = Case()
    with pytest.raises(ValueError, match="does not fit"):
        case.model.run(tokens(3, length=4), edits=lk.Patch("resid_pre", case.clean, layers=LAYER))
    case.ids = tokens(3, rows=3)
    case.check()  # a source of one row serves every row
    case.ids = tokens(3, length=9)
    case.check()
    with pytest.raises(lk.NothingEdited, match="pos 2 does not exist"):
        case.model.run(tokens(3, length=2), edits=case.patch)


def test_edits_that_stay_act_before_it() -> None:
    case = Case()
    with case.model.edit(lk.Zero("resid_pre", layers=LAYER)):
        run = case.model.run(case.ids, edits=case.patch, keep=("resid_pre", LAYER))
    expected = torch.zeros_like(run["resid_pre", LAYER])
    expected[:, POS] = case.clean["resid_pre", LAYER][:, POS]
    assert torch.equal(run["resid_pre", LAYER], expected)
    case.check()


def test_where_it_comes_from_is_told_as_of_the_run() -> None:
    case = Case()
    before = case.model.run(case.ids, edits=case.patch)
    case.model.hf_model.double()
    case.model.hf_model.set_attn_implementation("eager")
    after = case.model.run(case.ids, edits=case.patch)
    assert [run.provenance["dtype"] for run in (before, after)] == ["float32", "float64"]
    assert [run.provenance["attention"] for run in (before, after)] == ["sdpa", "eager"]
    assert after.provenance["edits"] == [repr(case.patch)]


@contextmanager
def without_collecting() -> Iterator[None]:
    """What dies here dies because nothing holds it, and not because the garbage was collected."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


EDITS: dict[str, Callable[[lk.Run], lk.Edit]] = {
    "a patch": lambda clean: lk.Patch("resid_pre", clean, layers=LAYER, pos=POS),
    "a patch of all layers": lambda clean: lk.Patch("z", clean),
    "a function": lambda clean: lk.Call("resid_pre", lambda part: part + clean["resid_pre", 0][:, :1], layers=LAYER),
    "a value": lambda clean: lk.Set("resid_pre", clean["resid_pre", LAYER], layers=LAYER),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_an_edit_held_goes_with_it(name: str) -> None:
    model = lk.Model(tiny("llama"))
    assert model.sites
    with without_collecting():
        clean = model.run(tokens(2), keep=["resid_pre", "z"])
        watch = weakref.ref(clean)
        edit = EDITS[name](clean)
        model.run(tokens(1), edits=edit)
        with model.trace(tokens(1), edits=edit) as t:
            _ = t["resid_post", LAYER]
        del clean, edit, t
        assert watch() is None
