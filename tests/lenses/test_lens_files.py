"""A lens on disk: the published format both ways, lenskit's own, the hub's layout, and what is refused."""

import json
import pickle
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lenskit as lk
from lenskit.lenses.translators import Translators, factored
from lenskit.lenses.tuned import TunedLens
from lenskit.models.identity import Identity, ModelMismatch, unembed_hash
from tests.models.tiny import tiny

PUBLISHED = Path(__file__).parent / "fixtures" / "tuned_lens_0_2_0"
"""Written by tuned-lens 0.2.0 itself: scripts/make_tuned_lens_fixture.py."""


@cache
def published_model() -> lk.Model:
    return lk.load(PUBLISHED / "model")


@cache
def model(architecture: str = "llama", seed: int = 0) -> lk.Model:
    return lk.Model(tiny(architecture, seed), name="org/tiny")


def random_lens(of: lk.Model, seed: int = 0) -> TunedLens:
    rng = torch.Generator().manual_seed(seed)
    layers, d = of.n_layers, 32
    weight, bias = (0.1 * torch.randn(*shape, generator=rng) for shape in ((layers, d, d), (layers, d)))
    return TunedLens(of, Translators(weight, bias), about={"made": "by hand"})


def logits_through(lens: TunedLens, ids: torch.Tensor) -> torch.Tensor:
    """(layer, batch, pos, vocab) from plain Hugging Face hidden states."""
    hf_model = lens.model.hf_model
    with torch.no_grad():
        states = hf_model(ids, output_hidden_states=True).hidden_states[:-1]
        rows = [lens.model.unembed(lens.transport(h, ("resid_pre", layer))) for layer, h in enumerate(states)]
    return torch.stack(rows)


def same(a: TunedLens, b: TunedLens) -> bool:
    x, y = a.translators.whole(), b.translators.whole()
    assert x.bias is not None
    assert y.bias is not None
    return torch.equal(x.weight, y.weight) and torch.equal(x.bias, y.bias)


# The published format


def test_a_lens_saved_by_tuned_lens_reads_here_with_equal_logits() -> None:
    expected = load_file(PUBLISHED / "logits.safetensors")
    lens = TunedLens.load(published_model(), PUBLISHED / "lens")
    torch.testing.assert_close(logits_through(lens, expected["ids"]), expected["logits"], rtol=0, atol=1e-5)


def test_the_hash_of_the_unembedding_is_tuned_lens_s_own() -> None:
    config = json.loads((PUBLISHED / "lens" / "config.json").read_text())
    assert unembed_hash(published_model()) == config["unembed_hash"]


def test_the_hash_does_not_depend_on_how_the_user_prints_arrays() -> None:
    import numpy as np

    with np.printoptions(precision=8, threshold=10, edgeitems=1, linewidth=200, suppress=True):
        assert (
            unembed_hash(published_model())
            == json.loads((PUBLISHED / "lens" / "config.json").read_text())["unembed_hash"]
        )


def test_what_is_saved_for_tuned_lens_has_its_names_and_reads_back(tmp_path: Path) -> None:
    lens = random_lens(model())
    lens.save(tmp_path / "lens", format="tuned-lens")
    params = torch.load(tmp_path / "lens" / "params.pt", weights_only=True)
    ours, theirs = (
        set(json.loads((folder / "config.json").read_text())) for folder in (tmp_path / "lens", PUBLISHED / "lens")
    )
    assert ours == theirs
    assert list(params) == [f"{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")]
    assert same(TunedLens.load(model(), tmp_path / "lens"), lens)


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    random_lens(model()).save(tmp_path / "lens", format="tuned-lens")
    with pytest.raises(FileExistsError, match="exists already; nothing was changed"):
        random_lens(model(), 1).save(tmp_path / "lens", format="tuned-lens")


@pytest.mark.parametrize("layout", ["lens/org/tiny", "org/tiny", "."])
def test_a_folder_laid_out_as_the_hub_is_found_by_the_model_s_name(tmp_path: Path, layout: str) -> None:
    lens = random_lens(model())
    lens.save(tmp_path / "repo" / layout if layout != "." else tmp_path / "repo", format="tuned-lens")
    assert same(TunedLens.load(model(), tmp_path / "repo"), lens)


@pytest.mark.parametrize(("repo", "kind"), [(None, None), ("somebody/lenses", "model"), ("somebody/lenses", "dataset")])
def test_the_hub_s_cache_is_read_without_a_network(tmp_path: Path, repo: str | None, kind: str | None) -> None:
    name = repo or "AlignmentResearch/tuned-lens"
    folder = tmp_path / f"{kind or 'space'}s--{name.replace('/', '--')}"
    commit = "0123456789" * 4
    lens = random_lens(model())
    lens.save(folder / "snapshots" / commit / "lens" / "org" / "tiny", format="tuned-lens")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    assert same(TunedLens.load(model(), repo=repo, repo_type=kind, cache_dir=tmp_path), lens)
    assert same(TunedLens.load(model(), "org/tiny", repo=repo, repo_type=kind, cache_dir=tmp_path), lens)


def test_the_environment_may_name_the_repository_as_for_tuned_lens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNED_LENS_REPO_ID", "my/lenses")
    monkeypatch.setenv("TUNED_LENS_REPO_TYPE", "model")
    with pytest.raises(lk.LoadError, match="of the model my/lenses"):
        TunedLens.load(model(), cache_dir=tmp_path)


def test_a_lens_that_is_nowhere_is_refused_with_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(lk.LoadError, match=r"(?s)a file or folder: .*the Hugging Face cache: .*HF_HUB_OFFLINE"):
        TunedLens.load(model(), "nobody/nothing", cache_dir=tmp_path)
    with pytest.raises(lk.LoadError, match=r"holds no lens of org/tiny: .* it has nothing"):
        TunedLens.load(model(), tmp_path)
    with pytest.raises(lk.LoadError, match="nothing is there"):
        TunedLens.load(model(), tmp_path / "lens.safetensors")


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "was here"),)  # which would be made

    folder = tmp_path / "lens"
    shutil.copytree(PUBLISHED / "lens", folder)
    (folder / "params.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(lk.LoadError, match=r"params\.pt"):
        TunedLens.load(published_model(), folder)
    torch.save({"0.weight": Hostile()}, folder / "params.pt")
    with pytest.raises(lk.LoadError, match="a pickle that holds more than tensors"):
        TunedLens.load(published_model(), folder)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"d_model": 8}, r"0\.bias is \(16,\) and not \(8,\)"),
        ({"num_hidden_layers": 4}, r"3\.bias is None"),
        ({"num_hidden_layers": "3"}, "says no num_hidden_layers"),
        ({"lens_type": "rotary"}, "is of a 'rotary'"),
    ],
)
def test_a_folder_that_is_not_what_its_config_says_is_refused(
    tmp_path: Path, change: dict[str, object], error: str
) -> None:
    shutil.copytree(PUBLISHED / "lens", tmp_path / "lens")
    config = tmp_path / "lens" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(lk.LoadError, match=error):
        TunedLens.load(published_model(), tmp_path / "lens")


def test_a_lens_without_biases_is_read_and_written_with_zeros(tmp_path: Path) -> None:
    shutil.copytree(PUBLISHED / "lens", tmp_path / "lens")
    params = torch.load(tmp_path / "lens" / "params.pt", weights_only=True)
    torch.save({name: value for name, value in params.items() if "bias" not in name}, tmp_path / "lens" / "params.pt")
    config = tmp_path / "lens" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"bias": False}))
    lens = TunedLens.load(published_model(), tmp_path / "lens")
    assert lens.translators.bias is None
    h = torch.randn(2, 16)
    torch.testing.assert_close(lens.transport(h, "resid_pre.1"), h + h @ params["1.weight"].T)
    lens.save(tmp_path / "again", format="tuned-lens")
    assert (torch.load(tmp_path / "again" / "params.pt", weights_only=True)["2.bias"] == 0).all()


# lenskit's own format


@pytest.mark.parametrize("rank", [None, 5])
def test_lenskit_s_own_file_reads_back_as_it_was_to_the_last_bit(tmp_path: Path, rank: int | None) -> None:
    lens = random_lens(model())
    if rank is not None:
        lens = lens.low_rank(rank)
    lens.save(tmp_path / "lens.safetensors")
    again = TunedLens.load(model(), tmp_path / "lens.safetensors")
    assert same(again, lens)
    assert again.about == lens.about
    assert repr(again) == repr(lens)


def test_the_file_says_which_model_it_is_for(tmp_path: Path) -> None:
    from safetensors import safe_open

    random_lens(model()).save(tmp_path / "lens.safetensors")
    with safe_open(tmp_path / "lens.safetensors", framework="pt") as file:
        identity = Identity.from_dict(json.loads(file.metadata()["identity"]))
    assert identity == Identity.of(model())
    assert (identity.model, identity.d_model, identity.n_layers) == ("org/tiny", 32, 3)


def test_half_precision_halves_the_file_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    lens = random_lens(model())
    lens.save(tmp_path / "whole.safetensors")
    lens.save(tmp_path / "half.safetensors", dtype=torch.float16)
    sizes = [(tmp_path / name).stat().st_size for name in ("whole.safetensors", "half.safetensors")]
    assert sizes[1] < 0.6 * sizes[0]
    again = TunedLens.load(model(), tmp_path / "half.safetensors").translators.whole()
    torch.testing.assert_close(again.weight, lens.translators.whole().weight, rtol=1e-3, atol=1e-6)
    large = TunedLens(model(), Translators(torch.full((3, 32, 32), 1e6), torch.zeros(3, 32)))
    with pytest.raises(ValueError, match="weight does not fit into float16"):
        large.save(tmp_path / "large.safetensors", dtype=torch.float16)


@pytest.mark.parametrize("rank", [None, 5])
def test_int8_is_a_quarter_and_no_number_is_off_by_more_than_half_a_step(tmp_path: Path, rank: int | None) -> None:
    lens = random_lens(model()) if rank is None else random_lens(model()).low_rank(rank)
    lens.save(tmp_path / "whole.safetensors")
    lens.save(tmp_path / "small.safetensors", dtype=torch.int8)
    again = TunedLens.load(model(), tmp_path / "small.safetensors")
    matrices = ["weight"] if rank is None else ["left", "right"]
    for name in matrices:
        was, now = getattr(lens.translators, name), getattr(again.translators, name)
        step = was.abs().amax(-1, keepdim=True) / 127
        assert ((now - was).abs() <= 0.5 * step * 1.001).all()
        assert load_file(tmp_path / "small.safetensors")[name].dtype == torch.int8
    was, now = lens.translators.bias, again.translators.bias
    assert was is not None
    assert now is not None
    assert torch.equal(was, now)
    if rank is None:
        sizes = [(tmp_path / name).stat().st_size for name in ("whole.safetensors", "small.safetensors")]
        assert sizes[1] < 0.4 * sizes[0]  # a quarter, and scales and biases


def test_what_is_no_lens_of_lenskit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lk.LoadError, match="is no tuned lens of this version"):
        TunedLens.load(model(), PUBLISHED / "model" / "model.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not one")
    with pytest.raises(lk.LoadError, match="cannot be read as a tuned lens"):
        TunedLens.load(model(), tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"call it lens\.safetensors"):
        random_lens(model()).save(tmp_path / "lens")
    with pytest.raises(ValueError, match="tuned-lens reads floats only, not int8"):
        random_lens(model()).save(tmp_path / "lens", format="tuned-lens", dtype=torch.int8)
    with pytest.raises(ValueError, match="format is 'lenskit' or 'tuned-lens'"):
        random_lens(model()).save(tmp_path / "lens", format="pickle")  # pyright: ignore[reportArgumentType]


def test_factors_of_full_rank_are_the_matrix_and_of_lower_rank_the_nearest_to_it() -> None:
    whole = random_lens(model()).translators.whole()
    torch.testing.assert_close(factored(whole, 32).whole().weight, whole.weight, atol=1e-5, rtol=1e-4)
    states = torch.randn(200, 32, generator=torch.Generator().manual_seed(6)) * torch.logspace(0, -3, 32)
    metric = torch.stack([states.T @ states / 200] * 3)

    def missed(rank: int, seen: torch.Tensor | None) -> float:
        wrong = factored(whole, rank, seen).whole().weight - whole.weight
        return float((states @ wrong[1].T).square().sum())

    least = torch.linalg.svdvals(states @ whole.weight[1].T)[6:].square().sum()  # Eckart and Young
    assert missed(6, metric) == pytest.approx(float(least), rel=1e-3)
    assert missed(6, None) > 2 * missed(6, metric)
    with pytest.raises(ValueError, match="between 1 and d_model=32, not 33"):
        factored(whole, 33)


# Another model's lens


@pytest.mark.parametrize("form", ["lenskit", "tuned-lens"])
def test_a_lens_of_another_model_is_refused_with_the_reason(tmp_path: Path, form: str) -> None:
    where = tmp_path / "lens.safetensors" if form == "lenskit" else tmp_path / "lens"
    random_lens(model()).save(where, format=form)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelMismatch, match="its unembedding is another"):
        TunedLens.load(model(seed=1), where)
    wider = lk.Model(tiny("llama", d_model=64))
    with pytest.raises(ModelMismatch, match=r"it has d_model 32, and this model 64.*made for org/tiny"):
        TunedLens.load(wider, where)
    deeper = lk.Model(tiny("llama", layers=4))
    with pytest.raises(ModelMismatch, match="it has layers 3, and this model 4"):
        TunedLens.load(deeper, where)


def test_a_final_norm_that_differs_in_one_number_is_another_checkpoint(tmp_path: Path) -> None:
    random_lens(model()).save(tmp_path / "lens.safetensors")
    other = tiny("llama")
    with torch.no_grad():
        other.model.norm.weight[3] += 1e-3
    with pytest.raises(ModelMismatch, match="its final norm or unembedding differs in some numbers"):
        TunedLens.load(lk.Model(other, name="org/tiny"), tmp_path / "lens.safetensors")


def test_the_same_model_in_another_dtype_keeps_its_lens(tmp_path: Path) -> None:
    random_lens(model()).save(tmp_path / "lens.safetensors")
    half = lk.Model(tiny("llama").half(), name="org/tiny")
    lens = TunedLens.load(half, tmp_path / "lens.safetensors")
    assert lens.transport(torch.ones(1, 32).half(), "resid_pre.1").dtype == torch.float16


def test_a_lens_that_says_nothing_of_its_unembedding_goes_by_its_name(tmp_path: Path) -> None:
    random_lens(model()).save(tmp_path / "lens", format="tuned-lens")
    config = tmp_path / "lens" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"unembed_hash": None}))
    assert TunedLens.load(model(), tmp_path / "lens").identity.model == "org/tiny"
    other = lk.Model(tiny("llama", 1), name="org/other")
    with pytest.raises(ModelMismatch, match="says nothing of the model's unembedding, and that it is for 'org/tiny'"):
        TunedLens.load(other, tmp_path / "lens")
