"""lenskit's own file says everything, and everything comes back as it was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import Identity, ModelMismatch
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.train import Wanted, train
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny
from tests.transcoders.made_up import D_IN, FEATURES, activations, dictionary, numbers
from tests.transcoders.twins import circuit_tracer, sparsify


@pytest.mark.parametrize("kind", activations())
@pytest.mark.parametrize("writes", [1, 3])
def test_what_is_saved_comes_back_to_the_last_bit(tmp_path: Path, kind: str, writes: int) -> None:
    tc = dictionary(kind, writes=writes, skip=True, centre=True, normalise="layer norm", restores=writes == 1)
    tc.about["corpus"] = {"name": "Persuasion", "tokens": 12}
    tc.centred_output = True
    path = tc.save(tmp_path / "sae")
    assert path.name == "sae.safetensors"
    again = Transcoder.load(path)
    x = numbers(5, D_IN)
    assert torch.equal(again(x), tc(x))
    for name in ("reads", "writes", "normalise", "restores", "centred_output", "about", "identity"):
        assert getattr(again, name) == getattr(tc, name), name
    assert repr(again) == repr(tc)


def test_the_header_is_read_without_the_weights(tmp_path: Path) -> None:
    path = dictionary("topk", skip=True).save(tmp_path / "sae.safetensors")
    header = Transcoder.inspect(path)
    assert header == Transcoder.inspect(tmp_path)
    assert (header.reads, header.n_features, header.d_in, header.d_out) == (Site("resid_post", 1), FEATURES, D_IN, D_IN)
    assert header.activation == {"kind": "topk", "k": 5}
    assert header.skip
    assert not header.centre


def test_what_was_trained_on_a_model_is_saved_as_its_own(tmp_path: Path) -> None:
    model = Model(tiny("llama", layers=2, d_model=16), name="org/tiny")
    ids = torch.randint(1, 90, (20, 17), generator=torch.Generator().manual_seed(3))
    wanted = Wanted(("mlp_in", 1), ("mlp_out", 1), Recipe(32, k=4, batch=64))
    path = train(model, ids, [wanted])[0].save(tmp_path / "tc")
    again = Transcoder.load(path, model)
    assert again.identity == Identity.of(model)
    assert again.about["recipe"]["k"] == 4
    with pytest.raises(ModelMismatch, match="not one for org/tiny"):
        Transcoder.load(path, Model(tiny("llama", layers=2, d_model=16, seed=5), name="org/tiny"))


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    whole, half = dictionary().save(tmp_path / "a"), dictionary().half().save(tmp_path / "b")
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert torch.allclose(Transcoder.load(half).W_dec, dictionary().W_dec, atol=1e-2)


def test_all_of_a_folder_in_the_order_of_layers(tmp_path: Path) -> None:
    for layer in (10, 2, 9):
        sparsify.write(tmp_path / "saes" / f"layers.{layer}", seed=layer)
    circuit_tracer.write_layers(tmp_path / "set", layers=11)
    assert [str(tc.reads) for tc in Transcoder.load_all(tmp_path / "saes")] == ["layers.2", "layers.9", "layers.10"]
    assert [tc.reads.layer for tc in Transcoder.load_all(tmp_path / "set")] == list(range(11))
    assert [tc.reads.layer for tc in Transcoder.load_all(tmp_path / "set", layers=[10, 2])] == [2, 10]
    dictionary("relu").save(tmp_path / "own" / "a")
    dictionary("topk").save(tmp_path / "own" / "b")
    assert len(Transcoder.load_all(tmp_path / "own")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="Known formats: lenskit, SAELens"):
        Transcoder.load_all(tmp_path / "empty")


def test_the_layout_of_the_hub_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are links to blobs; nothing is asked of the network."""
    repo = tmp_path / "models--org--dictionaries"
    snapshot, blobs = repo / "snapshots" / ("a" * 40), repo / "blobs"
    sparsify.write(tmp_path / "real")
    (snapshot / "layers.3").mkdir(parents=True)
    blobs.mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    for each in (tmp_path / "real").iterdir():
        each.rename(blobs / f"blob-{each.name}")
        (snapshot / "layers.3" / each.name).symlink_to(Path("../../..") / "blobs" / f"blob-{each.name}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("lenskit.transcoders.hub.is_offline_mode", lambda: True)
    assert str(Transcoder.load("org/dictionaries/layers.3").reads) == "layers.3"
    with pytest.raises(LoadError, match=r"has org/dictionaries, without layers\.4"):
        Transcoder.load("org/dictionaries/layers.4")
    with pytest.raises(LoadError, match="has nothing of org/none"):
        Transcoder.load("org/none/layers.4")
    with pytest.raises(LoadError, match="no place on the hub"):
        Transcoder.load("nowhere")


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = dictionary("jumprelu").save(tmp_path / "a")
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields = json.loads(header["fields"])

    def refused(reason: str, **changed: object) -> None:
        save_file(tensors, path, {**header, "fields": json.dumps(fields | changed)})
        with pytest.raises(LoadError, match=reason):
            Transcoder.load(path)

    refused("activation", activation={"kind": "softmax"})
    refused("has or lacks", identity={"model": "gpt2"})
    refused("normalise is", normalise="batch norm")
    refused("W_dec", writes=["resid_post.1", "resid_post.2"])
    refused("unexpected keyword", activation={"kind": "jumprelu", "k": 3})
    save_file({name: value for name, value in tensors.items() if name != "b_dec"}, path, header)
    with pytest.raises(LoadError, match="holds no b_dec"):
        Transcoder.load(path)
    tensors["W_enc"][0, 0] = float("nan")
    save_file(tensors, path, header)
    with pytest.raises(LoadError, match="numbers that are none"):
        Transcoder.load(path)


@pytest.mark.parametrize("kind", activations())
@pytest.mark.parametrize("writes", [1, 3])
def test_int8_is_off_by_half_a_step_of_each_row_at_most_and_a_quarter_as_large(
    tmp_path: Path, kind: str, writes: int
) -> None:
    tc = dictionary(kind, writes=writes, skip=True, centre=True)
    again = Transcoder.load(tc.save(tmp_path / "small", dtype=torch.int8))
    for name, value in tc.named_parameters():
        read = again.get_parameter(name)
        if name.startswith("W_"):
            half = value.abs().amax(-1, keepdim=True) / 254
            assert ((read - value).abs() <= half * (1 + 1e-4)).all(), name
            assert (read != value).any(), name
        else:
            assert torch.equal(read, value), name
    assert repr(again) == repr(tc)
    assert torch.equal(Transcoder.load(again.save(tmp_path / "twice", dtype=torch.int8)).W_enc, again.W_enc)
    wide = Transcoder(numbers(512, 256), None, numbers(512, 256), None, TopK(3), reads="mlp_in.1", writes="mlp_out.1")
    sizes = [wide.save(tmp_path / str(n), dtype=dtype).stat().st_size for n, dtype in enumerate((None, torch.int8))]
    assert sizes[1] < 0.27 * sizes[0]


def test_a_row_of_zeros_stays_one_in_int8_and_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    tc = dictionary()
    tc.W_dec[0, 3] = 0.0
    assert not Transcoder.load(tc.save(tmp_path / "a", dtype=torch.int8)).W_dec[0, 3].any()
    tc.W_dec[0, 3] = 1e6
    with pytest.raises(ValueError, match=r"W_dec .* do not fit torch\.float16"):
        tc.save(tmp_path / "b", dtype=torch.float16)
    with pytest.raises(ValueError, match=r"not torch\.int32"):
        tc.save(tmp_path / "b", dtype=torch.int32)
    assert not (tmp_path / "b.safetensors").exists()


def test_steps_without_their_size_are_refused(tmp_path: Path) -> None:
    path = dictionary(skip=True).save(tmp_path / "a", dtype=torch.int8)
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def refused(reason: str, **changed: torch.Tensor | None) -> None:
        kept = {name: value for name, value in (tensors | changed).items() if value is not None}
        save_file(kept, path, header)
        with pytest.raises(LoadError, match=reason):
            Transcoder.load(path)

    refused("W_enc as int8 without W_enc_step", W_enc_step=None)
    refused("W_enc as int8 without W_enc_step, or that without int8", W_enc=tensors["W_enc"].float())
    refused("W_skip_step of", W_skip_step=tensors["W_skip_step"][:, :3].contiguous())
    refused("also holds b_dec_step", b_dec_step=tensors["W_skip_step"].clone())
