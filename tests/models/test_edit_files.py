"""Edits on disk come back as they were, and a file that says anything else is refused."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import lenskit as lk
from lenskit.artifacts import sha256, whole_file
from tests.models.tiny import tiny

MODEL = lk.Model(tiny("llama"))
V = torch.linspace(-1, 1, 32)


def tokens(seed: int = 1, rows: int = 2) -> Tensor:
    return torch.randint(1, 131, (rows, 6), generator=torch.Generator().manual_seed(seed))


def back(path: Path, *edits: lk.Edit) -> tuple[lk.Edit, ...]:
    return lk.load_edits(lk.save_edits(edits, path / "edits.json"))


EVERY = [
    lk.Set("resid_post", V, layers=1),
    lk.Set("scores", float("-inf"), layers=1, heads=2, pos=-1),
    lk.Set("z", 0, layers=[0, 2]),
    lk.Add("resid_post", V, scale=4, layers=1, pos=slice(1, None)),
    lk.Add("model.layers.1.mlp", V.half(), scale=-0.5),
    lk.Scale("attn_out", 1.5, layers=range(0, 3, 2), rows=[0, -1]),
    lk.Scale("mlp_out", V.to(torch.bfloat16), layers=-1, steps=slice(0, None, 2)),
    lk.Zero("pattern", layers=slice(None, 2), heads=[0, 3]),
    lk.Mean("attn_out", over="both"),
    lk.Resample("mlp_out", seed=7),
    lk.Project("resid_mid", torch.stack([V, V.flip(0) ** 2]), keep=True),
    lk.Patch("resid_pre", torch.ones(1, 6, 32), layers=1, pos=[2, 3], source_pos=[0, 1]),
]


@pytest.mark.parametrize("edit", EVERY, ids=repr)
def test_every_edit_comes_back_as_it_was(edit: lk.Edit, tmp_path: Path) -> None:
    (again,) = back(tmp_path, edit)
    assert again == edit
    assert repr(again) == repr(edit)
    for name in vars(edit):
        value, loaded = getattr(edit, name), getattr(again, name)
        assert type(value) is type(loaded)
        assert not isinstance(value, Tensor) or value.dtype == loaded.dtype


def test_all_edits_together_in_their_order_do_the_same(tmp_path: Path) -> None:
    loaded = back(tmp_path, *EVERY)
    assert loaded == tuple(EVERY)
    runnable = [edit for edit in EVERY if edit.steps is None]
    again = [edit for edit in loaded if edit.steps is None]
    assert torch.equal(MODEL.run(tokens(), edits=again).logits, MODEL.run(tokens(), edits=runnable).logits)
    read = json.loads((tmp_path / "edits.json").read_text())
    assert read["tensors"] == sha256(tmp_path / "edits.safetensors")
    assert read["edits"][3] == {
        "edit": "Add",
        "site": "resid_post",
        "layers": 1,
        "pos": {"slice": [1, None, None]},
        "value": {"tensor": "3.value"},
        "scale": 4,
    }


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("pos", [None, -1])
def test_a_patch_from_a_run_keeps_the_activations_that_it_needs(side: Any, pos: Any, tmp_path: Path) -> None:
    rows: Any = tokens() if side is None else [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    others: Any = tokens(2) if side is None else [tokens(2)[0].tolist(), tokens(2)[1, :4].tolist()]
    source = MODEL.run(others, keep=["resid_pre", "embed"], pos=pos, padding_side=side)
    edits = [lk.Patch("resid_pre", source, layers=[1, -1], pos=-1), lk.Patch("embed", source, pos=-1)]
    again = back(tmp_path, *edits)
    for padding in {None: [None]}.get(side, ["left", "right"]):
        plain = MODEL.run(rows, edits=edits, padding_side=padding)  # pyright: ignore[reportArgumentType]
        loaded = MODEL.run(rows, edits=again, padding_side=padding)  # pyright: ignore[reportArgumentType]
        assert torch.equal(loaded.logits, plain.logits)
    names = set(load_file(tmp_path / "edits.safetensors"))
    assert {"0.source.1", "0.source.2", "1.source.None"} <= names
    assert "0.source.0" not in names
    assert back(tmp_path, *again) == again


def test_what_holds_a_function_is_not_saved(tmp_path: Path) -> None:
    for edit in (lk.Call("z", torch.relu), lk.Splice("mlp_in", "mlp_out", torch.relu)):
        with pytest.raises(TypeError, match="holds a function, which cannot be saved"):
            lk.save_edits([lk.Zero("z"), edit], tmp_path / "edits.json")

    class Own(lk.Zero):
        pass

    with pytest.raises(TypeError, match="no edit of lenskit's own"):
        lk.save_edits(Own("z"), tmp_path / "edits.json")
    with pytest.raises(TypeError, match="is no edit"):
        lk.save_edits(["z"], tmp_path / "edits.json")  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


def test_tensors_that_share_memory_or_need_gradients_are_saved_as_numbers(tmp_path: Path) -> None:
    big = torch.arange(64.0).requires_grad_()
    edits = [lk.Add("resid_post", big[:32]), lk.Add("resid_post", big[::2]), lk.Add("resid_post", big[:32])]
    loaded = back(tmp_path, *edits)
    assert loaded == tuple(edits)
    assert not any(edit.value.requires_grad for edit in loaded)  # pyright: ignore


def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    path = lk.save_edits(lk.Add("resid_post", V), tmp_path / "edits.json")
    with suppress(KeyboardInterrupt), whole_file(path) as scratch:
        scratch.write_text("half")
        raise KeyboardInterrupt
    assert lk.load_edits(path) == (lk.Add("resid_post", V),)
    lk.save_edits(lk.Add("resid_post", V * 2), path)
    assert lk.load_edits(str(path)) == (lk.Add("resid_post", V * 2),)
    lk.save_edits([], path)
    assert lk.load_edits(path) == ()
    assert [each.name for each in tmp_path.iterdir()] == ["edits.json"]
    with pytest.raises(ValueError, match=r"say steer.json rather than 'steer'"):
        lk.save_edits(lk.Zero("z"), tmp_path / "steer")


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    read = json.loads(path.read_text())
    new = change(read)
    whole = isinstance(new, list) or (isinstance(new, dict) and "format" in new)
    path.write_text(json.dumps(new if whole else read))  # else the change was made in place


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda f: [], "holds no edits"),
        (lambda f: {**f, "format": "other"}, "its format is not 'lenskit edits'"),
        (lambda f: {**f, "version": 2}, "is of version 2, and this lenskit reads version 1"),
        (lambda f: {**f, "more": 1}, "and nothing else"),
        (lambda f: {**f, "edits": {}}, "and nothing else"),
        (lambda f: {**f, "tensors": "0" * 64}, "its SHA-256 differs"),
        (lambda f: {**f, "tensors": None}, "names no tensor that was saved"),
        (lambda f: f["edits"].pop(), "no edit uses the tensor"),
        (lambda f: f["edits"].append(3), "edit 2: an edit says which it is"),
        (lambda f: f["edits"].append({"edit": "Call", "site": "z", "fn": "os.system"}), "no edit 'Call' that can be"),
        (lambda f: f["edits"].append({"edit": "Edit", "site": "z"}), "no edit 'Edit' that can be loaded"),
        (lambda f: f["edits"].append({"edit": "Zero"}), "Zero needs 'site'"),
        (lambda f: f["edits"].append({"edit": "Set", "site": "z"}), "Set needs 'value'"),
        (lambda f: f["edits"].append({"edit": "Zero", "site": "z", "fn": 1}), "Zero has no 'fn'. It has site, layers"),
        (lambda f: f["edits"].append({"edit": "Zero", "site": 1}), "site: 1 is of the wrong type"),
        (lambda f: f["edits"][0].update(layers="all"), "layers: 'all' is no index"),
        (lambda f: f["edits"][0].update(layers=True), "layers: True is no index"),
        (lambda f: f["edits"][0].update(layers=1.0), "layers: 1.0 is no index"),
        (lambda f: f["edits"][0].update(pos={"slice": [1, 2]}), "pos: .* is no index"),
        (lambda f: f["edits"][0].update(pos={"range": [0, 5, 0]}), "pos: .* is no index"),
        (lambda f: f["edits"][0].update(steps=-1), "count from 0 upwards"),
        (lambda f: f["edits"][0].update(scale="4"), "scale: '4' is no number"),
        (lambda f: f["edits"][0].update(value="v"), "value: 'v' is no number, nor the name of a tensor"),
        (lambda f: f["edits"][0].update(value={"tensor": "7.value"}), "names no tensor that was saved"),
        (lambda f: f["edits"][0].update(value={"number": "1e400"}), "is no number"),
        (lambda f: f["edits"][1]["source"].update(file="x"), "a source is a tensor, or has layers"),
        (lambda f: f["edits"][1]["source"]["layers"].update(x={"tensor": "0.value"}), "'x' is no layer"),
        (lambda f: f["edits"][1]["source"]["moment"].update(rows=-1), "made of whole numbers"),
        (lambda f: f["edits"][1]["source"]["moment"].update(length=2), "the mask has shape"),
        (lambda f: f["edits"][1]["source"]["moment"].pop("step"), "a moment has rows, before, length, step"),
    ],
)
def test_a_file_that_says_anything_else_is_refused(change: Callable[[Any], Any], error: str, tmp_path: Path) -> None:
    source = MODEL.run([[1, 2, 3], [4, 5]], keep=("resid_pre", 1))
    path = tmp_path / "edits.json"
    lk.save_edits([lk.Add("resid_post", V), lk.Patch("resid_pre", source, layers=1)], path)
    changed(path, change)
    with pytest.raises(ValueError, match=error):
        lk.load_edits(path)


def test_a_file_that_is_broken_or_missing_is_refused(tmp_path: Path) -> None:
    path = lk.save_edits(lk.Add("resid_post", V), tmp_path / "edits.json")
    beside = path.with_suffix(".safetensors")
    save_file({"0.value": V + 1}, beside)
    with pytest.raises(ValueError, match=r"does not hold the tensors that were saved with edits.json"):
        lk.load_edits(path)
    beside.write_bytes(b"nothing")
    changed(path, lambda f: {**f, "tensors": sha256(beside)})
    with pytest.raises(ValueError, match="is no safetensors file"):
        lk.load_edits(path)
    beside.unlink()
    with pytest.raises(FileNotFoundError, match=r"needs its tensors, edits.safetensors, beside it"):
        lk.load_edits(path)
    for text in ("{", '{"scale": NaN}', "\udcff"):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(ValueError, match="holds no JSON"):
            lk.load_edits(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        lk.load_edits(path)


WHICH = st.one_of(
    st.none(),
    st.integers(-9, 9),
    st.lists(st.integers(-9, 9)),
    st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9), st.none() | st.integers(1, 3)),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    layers=WHICH,
    heads=WHICH,
    pos=WHICH,
    rows=WHICH,
    value=st.floats(allow_nan=False) | st.integers(),
    size=st.integers(0, 4),
)
def test_any_selectors_and_values_come_back(
    tmp_path: Path, layers: Any, heads: Any, pos: Any, rows: Any, value: float, size: int
) -> None:
    chosen = {"layers": layers, "heads": heads, "pos": pos, "rows": rows}
    edits = (lk.Set("z", value, **chosen), lk.Scale("z", torch.randn(size), **chosen))
    assert back(tmp_path, *edits) == edits
