"""Making an index: what was killed goes on and ends with the very same files; what does not fit is refused."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lenskit.transcoders.index.build as building
from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import ModelMismatch
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.index import files
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.transcoders.index.progress import Progress, clock
from lenskit.transcoders.transcoder import Transcoder
from tests.transcoders.test_feature_index import NEURONS, built, corpus, dictionary, model

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
import lenskit.transcoders.index.build as building
from tests.transcoders.test_feature_index import built, corpus, dictionary
building.EVERY, building._PAIRS, building._TOGETHER = 0.0, 1500, 64
built(sys.argv[1], dictionary(), corpus(800))
"""


def test_an_index_that_is_killed_and_begun_again_ends_with_the_very_same_files(tmp_path: Path) -> None:
    kills = 20 if os.environ.get("LENSKIT_ALL_RUNS") else 2
    here = {**os.environ, "PYTHONPATH": os.getcwd()}

    def begin(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name)], env=here)

    assert begin("whole").wait() == 0
    random, was_killed = torch.Generator().manual_seed(0), 0
    for _ in range(kills):
        process = begin("killed")
        begun, checkpoint = time.monotonic(), tmp_path / "killed" / files.UNFINISHED
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() - begun < 300
            if process.poll() is not None:
                break
            time.sleep(0.005)
        time.sleep(float(torch.rand(1, generator=random)) * 0.05)
        process.send_signal(signal.SIGKILL)
        was_killed += process.wait() != 0
    assert was_killed
    assert begin("killed").wait() == 0
    for name in (files.ABOUT, files.NUMBERS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert not (tmp_path / "killed" / files.UNFINISHED).exists()
    left = {path.name for path in (tmp_path / "killed").iterdir() if not path.name.endswith(".lock")}
    assert left == {files.ABOUT, files.NUMBERS}


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "EVERY", 0.0)
    monkeypatch.setattr(building, "_PAIRS", 1)
    monkeypatch.setattr(building, "_TOGETHER", 34)
    m, tc, ids = model(), dictionary(), corpus(20)

    def stop(progress: Progress) -> None:
        if progress.done >= 160:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureIndex.build(m, tc, ids, tmp_path, on_progress=stop)
    with pytest.raises(LoadError, match="goes on with it"):
        FeatureIndex.open(tmp_path)
    heard: list[Progress] = []
    index = FeatureIndex.build(m, tc, ids, tmp_path, on_progress=heard.append)
    assert heard[0].done == 192
    assert [each.stage for each in heard] == sorted((each.stage for each in heard), reverse=True)
    assert heard[-1].share == 1.0
    assert str(heard[1]).startswith("reading: 224 of 320 tokens, 0:")
    assert index.tokens == 320

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(m, "run", refuse)
    again = FeatureIndex.build(m, tc, ids, tmp_path)
    assert np.array_equal(again.density, index.density)


def test_time_left_is_told_from_what_this_attempt_did() -> None:
    assert clock(0.4) == "0:00"
    assert clock(61) == "1:01"
    assert clock(3725) == "1:02:05"


def test_a_folder_of_another_index_is_refused(tmp_path: Path) -> None:
    m, ids = model(), corpus(10)
    built(tmp_path, dictionary(), ids, m)
    for other in (
        lambda: built(tmp_path, dictionary(1), ids, m),
        lambda: built(tmp_path, NEURONS, ids, m),
        lambda: built(tmp_path, dictionary(), corpus(11), m),
        lambda: built(tmp_path, dictionary(), ids, m, top=3),
        lambda: built(tmp_path, dictionary(), ids, model(1)),
    ):
        with pytest.raises(ValueError, match="index of something else"):
            other()


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for sizes, said in (({"top": 0}, "top is at least 1"), ({"bins": 24}, "power of two"), ({"skip": 17}, "skip=17")):
        with pytest.raises(ValueError, match=said):
            built(tmp_path, dictionary(), corpus(3), model(), **sizes)
    with pytest.raises(ValueError, match="say which"):
        built(tmp_path, "mlp_post", corpus(3), model())
    assert not (tmp_path / files.ABOUT).exists()


def test_an_index_and_a_dictionary_are_refused_on_another_model(tmp_path: Path) -> None:
    m, tc, ids = model(), dictionary(), corpus(10)
    index, other = built(tmp_path / "index", tc, ids, m), model(1)
    for ask in (
        lambda: index.firing(other, "The capital"),
        lambda: index.de_embedding(0, head=(0, 0), model=other),
    ):
        with pytest.raises(ModelMismatch, match="build one for this model"):
            ask()
    tc.save(tmp_path / "tc.safetensors", m)
    with pytest.raises(ModelMismatch):
        built(tmp_path / "other", Transcoder.load(tmp_path / "tc.safetensors"), ids, other)


def test_a_dictionary_given_by_its_place_is_found_again(tmp_path: Path) -> None:
    m, tc, ids = model(), dictionary(), corpus(10)
    place = tc.save(tmp_path / "tc.safetensors", m)
    FeatureIndex.build(m, str(place), ids, tmp_path / "index")
    index = FeatureIndex.open(tmp_path / "index")
    found = index.basis(m)
    assert isinstance(found, Transcoder)
    assert torch.equal(found.W_enc, tc.W_enc)
    dictionary(1).save(place, m)
    with pytest.raises(LoadError, match="another than"):
        FeatureIndex.open(tmp_path / "index").basis(m)
    built(tmp_path / "memory", tc, ids, m)
    kept = FeatureIndex.open(tmp_path / "memory")
    with pytest.raises(ValueError, match="give it as basis="):
        kept.firing(m, "The capital")
    assert len(kept.firing(m, "The capital", basis=tc).tokens) > 1


def test_a_model_is_left_as_it_was_and_its_own_edits_count(tmp_path: Path) -> None:
    import lenskit as lk

    m, ids = model(), corpus(10)
    before = {name: weight.clone() for name, weight in m.hf_model.state_dict().items()}
    plain = built(tmp_path / "plain", NEURONS, ids, m)
    with m.edit(lk.Scale("mlp_post", 2.0, layers=1)):
        doubled = built(tmp_path / "doubled", NEURONS, ids, m)
    assert np.allclose(doubled.max, 2 * np.asarray(plain.max), rtol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in m.hf_model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in m.hf_model.modules())


# What was spoilt on disk


def small(folder: Path) -> FeatureIndex:
    tc = dictionary(features=8, k=2)
    tc = Transcoder(tc.W_enc, tc.b_enc, tc.W_dec, tc.b_dec, TopK(2), reads=tc.reads, writes=tc.writes)
    return built(folder, tc, corpus(6), top=2, bands=2, per_band=1, bins=4)


def ask_everything(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    for f in range(index.n_features):
        index.card(f)
    index.features_of_token(3)
    index.find("a")
    index.sorted_by("max")
    index.to_pandas()
    _ = index.identity


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    small(folder)
    return folder


def test_an_index_that_is_cut_short_anywhere_is_refused(saved: Path, tmp_path: Path) -> None:
    for name in (files.NUMBERS, files.ABOUT):
        whole = (saved / name).read_bytes()
        other = files.ABOUT if name == files.NUMBERS else files.NUMBERS
        (tmp_path / other).write_bytes((saved / other).read_bytes())
        for length in (0, 3, 8, 100, len(whole) // 2, len(whole) - 2):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(LoadError, match=name):
                FeatureIndex.open(tmp_path)
    (tmp_path / files.ABOUT).unlink()
    with pytest.raises(LoadError, match="holds no index"):
        FeatureIndex.open(tmp_path)


@settings(max_examples=1000 if os.environ.get("LENSKIT_ALL_RUNS") else 60)
@given(data=st.data())
def test_an_index_with_bytes_changed_gives_numbers_or_a_clear_error(data: st.DataObject, saved: Path) -> None:
    folder = saved.parent / "changed"
    folder.mkdir(exist_ok=True)
    for name in (files.NUMBERS, files.ABOUT):
        spoilt = bytearray((saved / name).read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            # As often in the header as in what it tells of.
            end = data.draw(st.sampled_from([16, 2000, len(spoilt)]))
            spoilt[data.draw(st.integers(0, min(end, len(spoilt)) - 1))] = data.draw(st.integers(0, 255))
        (folder / name).write_bytes(spoilt)
    with suppress(LoadError):  # and nothing else
        ask_everything(folder)


def test_sizes_that_do_not_fit_the_file_are_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / files.NUMBERS).write_bytes((saved / files.NUMBERS).read_bytes())
    said = (saved / files.ABOUT).read_text()
    for old, new in (
        ('"n_features": 8', '"n_features": 9'),
        ('"top": 2', '"top": 4000000000'),
        ('"bins": 4', '"bins": -4'),
        ('"format": "lenskit feature index 1"', '"format": "another"'),
        ('"window": 33', '"window": 7'),
    ):
        assert old in said
        (tmp_path / files.ABOUT).write_text(said.replace(old, new))
        with pytest.raises(LoadError):
            FeatureIndex.open(tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / files.UNFINISHED).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(ValueError, match="index of something else"):
        built(tmp_path, dictionary(), corpus(3))
    (tmp_path / files.UNFINISHED).write_bytes(b"no header")
    with pytest.raises(LoadError, match=files.UNFINISHED):
        built(tmp_path, dictionary(), corpus(3))
