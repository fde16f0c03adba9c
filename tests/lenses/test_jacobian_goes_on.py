"""A fit that is interrupted ends as if it had not been; shards merge to one; what cannot be fitted is refused."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.lenses.jacobian import JacobianLens
from lenskit.lenses.jacobian_fit.history import FitHistory
from lenskit.models.sites import SiteUnavailable
from tests.models.tiny import tiny, tiny_tokenizer

TEXT = "When Mary and John went to the store, John gave a drink to Mary. The keys are on the table.\n" * 20


def model(seed: int = 0) -> lk.Model:
    return lk.Model(tiny("llama", seed, d_model=16, vocab=300), tiny_tokenizer(300), name="org/tiny")


def passages(count: int = 6, length: int = 9) -> Tensor:
    return torch.randint(300, (count, length), generator=torch.Generator().manual_seed(1))


def equal(a: JacobianLens, b: JacobianLens, atol: float = 0.0) -> bool:
    return a.layers == b.layers and all(bool((a.matrix(n) - b.matrix(n)).abs().max() <= atol) for n in a.layers)


class Killed(BaseException):
    """As if the process had been killed."""


def killed_after(count: int, folder: Path, ids: Tensor) -> None:
    def kill(history: FitHistory) -> None:
        if history.passages == count:
            raise Killed

    with pytest.raises(Killed):
        JacobianLens.fit(model(), ids, skip_first=2, folder=folder, on_passage=kill)


# Going on


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_fit_ends_with_the_same_sums_to_the_last_bit(tmp_path: Path, after: int) -> None:
    whole = JacobianLens.fit(model(), passages(), skip_first=2)
    killed_after(after, tmp_path, passages())
    half = JacobianLens.load(model(), tmp_path / "jacobian_fit.safetensors")
    assert half.passages == after
    again = JacobianLens.fit(model(), passages(), skip_first=2, folder=tmp_path)
    assert equal(again, whole)
    assert again.history is not None
    assert whole.history is not None
    np.testing.assert_array_equal(again.history.changes, whole.history.changes)
    np.testing.assert_array_equal(again.history.errors, whole.history.errors)
    assert again.about == whole.about


def test_more_passages_are_added_to_those_there_were(tmp_path: Path) -> None:
    seen = list[int]()
    for count in (3, 3, 5):
        lens = JacobianLens.fit(
            model(),
            TEXT,
            passages=count,
            chunk=12,
            skip_first=2,
            folder=tmp_path,
            on_passage=lambda h: seen.append(h.passages),
        )
    assert seen == [1, 2, 3, 4, 5]
    assert equal(lens, JacobianLens.fit(model(), TEXT, passages=5, chunk=12, skip_first=2))


def test_another_fit_does_not_go_on_from_there(tmp_path: Path) -> None:
    JacobianLens.fit(model(), passages(2), skip_first=2, folder=tmp_path)
    with pytest.raises(ValueError, match="is of another model or checkpoint of it, so this one cannot go on"):
        JacobianLens.fit(model(seed=1), passages(2), skip_first=2, folder=tmp_path)
    with pytest.raises(ValueError, match="is made with skip_first=2 and not 3"):
        JacobianLens.fit(model(), passages(2), skip_first=3, folder=tmp_path)
    with pytest.raises(ValueError, match="is of other passages"):
        JacobianLens.fit(model(), passages(3).flip(0), skip_first=2, folder=tmp_path)
    with pytest.raises(ValueError, match="is of 16 rows at once and not 4"):
        JacobianLens.fit(model(), passages(2), skip_first=2, folder=tmp_path, at_once=4)


def test_two_shards_merge_to_one_fit() -> None:
    whole = JacobianLens.fit(model(), passages(5), skip_first=2)
    shards = [JacobianLens.fit(model(), part, skip_first=2) for part in (passages(5)[:3], passages(5)[3:])]
    merged = JacobianLens.merge(shards)
    assert equal(merged, whole, atol=1e-6)
    assert merged.passages == 5
    other = JacobianLens.fit(model(), passages(2), skip_first=2, layers=[1])
    with pytest.raises(ValueError, match="other layers, sources or target"):
        JacobianLens.merge([whole, other])
    with pytest.raises(ValueError, match="does not say how many passages"):
        JacobianLens.merge([whole, JacobianLens(model(), {0: torch.eye(16), 1: torch.eye(16)})])


PROCESS = """
import sys, torch
torch.set_num_threads(1)
from accelerate import Accelerator
from lenskit.lenses.jacobian import JacobianLens
from tests.lenses.test_jacobian_goes_on import model, passages
accelerator = Accelerator(cpu=True)
lens = JacobianLens.fit(model(), passages(5), skip_first=2, folder=sys.argv[1], accelerator=accelerator)
if accelerator.is_main_process:
    lens.save(sys.argv[1] + "/lens.safetensors")
"""


def test_two_processes_fit_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(PROCESS)
    there = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run([*launch, str(tmp_path / "fit.py"), str(tmp_path)], env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    shared = JacobianLens.load(model(), tmp_path / "lens.safetensors")
    assert equal(shared, JacobianLens.fit(model(), passages(5), skip_first=2), atol=1e-6)
    assert shared.passages == 5


# What is seen on the way


def test_the_changes_and_errors_are_those_of_the_means() -> None:
    each = [JacobianLens.fit(model(), row[None], skip_first=2).matrix(0).double() for row in passages(5)]
    lens = JacobianLens.fit(model(), passages(5), skip_first=2)
    history = lens.history
    assert history is not None
    means = [torch.stack(each[: n + 1]).mean(0) for n in range(5)]
    changes = [float((b - a).norm() / b.norm()) for a, b in pairwise(means)]
    np.testing.assert_allclose(history.changes[1:, 0], changes, rtol=1e-4)
    even, odd = torch.stack(each[::2]).mean(0), torch.stack(each[1::2]).mean(0)
    error = math.sqrt(3 * 2) / 5 * float((even - odd).norm() / means[-1].norm())
    assert math.isclose(history.error[0], error, rel_tol=1e-4)
    assert history.left == 0
    assert len(history.figure().data) == 2 + 2  # pyright: ignore[reportArgumentType]
    assert len(history.to_pandas()) == 10
    assert "passage 5 of 5: changed by" in str(history)


def test_the_curve_keeps_its_axis_while_a_fit_goes_on_and_names_the_ends() -> None:
    seen = list[FitHistory]()
    JacobianLens.fit(model(), passages(4), skip_first=2, on_passage=seen.append)
    assert [(history.step, history.steps) for history in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert str(seen[0]).startswith("passage 1 of 4, ")
    figures: list[Any] = [history.figure() for history in seen]
    assert {(tuple(each.layout.xaxis.range), tuple(each.layout.yaxis.range)) for each in figures} == {((1, 4), (-2, 0))}
    last = figures[-1]
    assert [(line.name, line.line.width) for line in last.data] == [
        *(("resid_post.0", 1), ("resid_post.1", 1)),
        *(("mean change", 3), ("standard error", 3)),
    ]
    np.testing.assert_array_equal(last.data[1].x, [2, 3, 4])
    np.testing.assert_array_equal(last.data[1].y, seen[-1].changes[1:, 1])


def test_of_many_layers_the_curve_names_the_first_and_the_last() -> None:
    changes = np.full((3, 29), 0.004)
    places = tuple(f"resid_post.{layer}" for layer in range(29))
    figure: Any = FitHistory(changes, changes, np.ones(3), places, 3, 100, 16).figure()
    named = [line.name for line in figure.data if line.showlegend]
    assert named == ["resid_post.0", "resid_post.28", "mean change", "standard error"]
    assert figure.layout.yaxis.range == (-3, 0)  # what is below a hundredth is in the picture


def test_the_error_bars_are_about_the_true_error() -> None:
    ids = passages(64)
    truth = JacobianLens.fit(model(), ids, skip_first=2).matrix(0).double()
    ratios = list[float]()
    for part in ids.split(8):
        lens = JacobianLens.fit(model(), part, skip_first=2)
        assert lens.history is not None
        off = float((lens.matrix(0).double() - truth).norm() / truth.norm()) / math.sqrt(1 - 8 / 64)
        ratios.append(float(lens.history.error[0]) / off)
    assert 0.7 < float(np.mean(ratios)) < 1.4


def test_it_stops_when_the_means_have_settled() -> None:
    lens = JacobianLens.fit(model(), passages(30), skip_first=2, stop_below=0.2)
    assert lens.history is not None
    assert 11 <= lens.history.passages < 30
    assert lens.history.settled < 0.2
    assert lens.about["fit"]["passages"] == lens.history.passages


# Approximately


def test_random_probes_are_unbiased_and_their_error_is_told() -> None:
    exact = JacobianLens.fit(model(), passages(1), skip_first=2)
    many = JacobianLens.fit_approximately(model(), passages(1), probes=4000, skip_first=2)
    few = JacobianLens.fit_approximately(model(), passages(6), probes=4, skip_first=2)
    error = float((many.matrix(0) - exact.matrix(0)).norm() / exact.matrix(0).norm())
    assert error < 2 * math.sqrt(15 / 4000)
    assert few.history is not None
    assert 0.3 < few.history.error[0] / math.sqrt(15 / (4 * 6)) < 2
    assert "approximate (4 probes)" in str(few.history)
    assert few.about["fit"]["probes"] == 4
    again = JacobianLens.fit_approximately(model(), passages(6), probes=4, skip_first=2)
    assert equal(few, again)


# What is refused


def test_what_cannot_be_fitted_is_refused() -> None:
    of = model()
    with pytest.raises(ValueError, match="have no position left after skip_first=16"):
        JacobianLens.fit(of, passages(2))
    with pytest.raises(ValueError, match=r"layers=\[2\]: the matrices of resid_post are those of layers 0 to 1"):
        JacobianLens.fit(of, passages(2), skip_first=2, layers=[2])
    with pytest.raises(ValueError, match="choose some of 'resid_post', 'z', 'attn_out', 'mlp_out'"):
        JacobianLens.fit(of, passages(2), skip_first=2, sources=["q"])
    with pytest.raises(ValueError, match="target is 'final' or 'penultimate'"):
        JacobianLens.fit(of, passages(2), skip_first=2, target="first")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="a backward gives at least one row"):
        JacobianLens.fit(of, passages(2), skip_first=2, at_once=0)
    with of.edit(lk.Zero("attn_out", layers=0)), pytest.raises(ValueError, match="has edits that stay"):
        JacobianLens.fit(of, passages(2), skip_first=2)
    with pytest.raises(SiteUnavailable):
        JacobianLens.fit(lk.Model(tiny("mamba")), passages(2) % 100, skip_first=2, sources=["z"])


def test_a_model_through_which_no_gradient_comes_is_refused() -> None:
    class Rounded(nn.Module):
        """A product as some quantised models have it: whole steps, which have no slope."""

        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner, self.in_features, self.out_features = inner, inner.in_features, inner.out_features

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).detach()

    of = tiny("llama", d_model=16, vocab=300)
    of.model.layers[1].mlp.down_proj = Rounded(of.model.layers[1].mlp.down_proj)
    with pytest.raises(ValueError, match="no gradient can be taken in this Llama"):
        JacobianLens.fit(lk.Model(of), passages(2), skip_first=2)


def test_nothing_is_left_on_the_model(tmp_path: Path) -> None:
    of = model()
    before = {name: value.clone() for name, value in of.hf_model.state_dict().items()}
    killed_after(1, tmp_path, passages(2))
    JacobianLens.fit(of, passages(2), skip_first=2, sources=["resid_post", "z"])
    assert all(torch.equal(value, before[name]) for name, value in of.hf_model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in of.hf_model.parameters())
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in of.hf_model.modules())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".jacobian_fit.safetensors.lock",
        "jacobian_fit.safetensors",
    ]
