"""A Jacobian lens on disk: every published form is told apart by what is in it, and what is ambiguous is refused."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lenskit as lk
from lenskit.lenses.jacobian import JacobianLens
from lenskit.models.identity import ModelMismatch
from tests.lenses.jacobian_twins import FORMS, mlx, numpy, reference, sums, transformer_lens
from tests.models.tiny import tiny

PUBLISHED = Path(__file__).parent / "fixtures" / "transformer_lens_4_3_0"
"""Fitted and saved by TransformerLens 4.3.0 itself: scripts/make_jacobian_lens_fixture.py."""

LAYERS, D = 4, 32


@cache
def model(seed: int = 0, architecture: str = "llama", layers: int = LAYERS) -> lk.Model:
    return lk.Model(tiny(architecture, seed, layers=layers, d_model=D), name="org/tiny")


def matrices(layers: int = LAYERS - 1, width: int = D, seed: int = 0) -> dict[int, Tensor]:
    """As a residual's are: the identity, and something more the earlier it is."""
    rng = torch.Generator().manual_seed(seed)
    noise = {layer: torch.randn(D, width, generator=rng) * 0.05 * (layers - layer) for layer in range(layers)}
    return {layer: torch.eye(D, width) + each for layer, each in noise.items()}


def heads(layers: int = LAYERS) -> dict[int, Tensor]:
    """As those of the heads' outputs are: nothing of the identity."""
    rng = torch.Generator().manual_seed(1)
    found = {layer: torch.randn(D, D, generator=rng) for layer in range(layers)}
    return {layer: matrix - matrix.diagonal().mean() * torch.eye(D) for layer, matrix in found.items()}


def same(lens: JacobianLens, by: dict[int, Tensor], atol: float = 2e-3, source: str = "resid_post") -> bool:
    has = lens.layers if source == "resid_post" else tuple(lens.components[source])
    return has == tuple(by) and all(bool((lens.matrix(n, source) - by[n]).abs().max() < atol) for n in by)


# What TransformerLens writes and reads


def test_a_lens_saved_by_transformer_lens_reads_here_with_equal_logits() -> None:
    of, expected = lk.load(PUBLISHED / "model"), load_file(PUBLISHED / "expected.safetensors")
    lens = JacobianLens.load(of, PUBLISHED / "lens.pt")
    run = of.run(expected["ids"], keep="resid_post")
    logits = [of.unembed(lens.transport(run["resid_post", layer], ("resid_post", layer))) for layer in lens.layers]
    torch.testing.assert_close(torch.stack(logits), expected["logits"], rtol=0, atol=1e-4)


def test_a_fit_here_on_the_same_passages_is_transformer_lens_s() -> None:
    of, expected = lk.load(PUBLISHED / "model"), load_file(PUBLISHED / "expected.safetensors")
    lens = JacobianLens.fit(of, expected["ids"], skip_first=3)
    for layer in lens.layers:
        torch.testing.assert_close(lens.matrix(layer), expected[f"exact.{layer}"], rtol=0, atol=1e-4)


def test_what_is_saved_for_it_has_its_keys_and_kinds(tmp_path: Path) -> None:
    of = lk.load(PUBLISHED / "model")
    lens = JacobianLens.load(of, PUBLISHED / "lens.pt")
    lens.save(tmp_path / "ours.pt", format="reference")
    ours, theirs = (torch.load(path, weights_only=True) for path in (tmp_path / "ours.pt", PUBLISHED / "lens.pt"))
    assert ours.keys() == theirs.keys()
    assert ours["J"].keys() == theirs["J"].keys()
    assert all(torch.equal(ours["J"][layer], theirs["J"][layer]) for layer in theirs["J"])
    assert (ours["n_prompts"], ours["source_layers"], ours["d_model"]) == (3, [0, 1, 2], 16)
    said = ("estimator", "target_layer", "hook_convention", "skip_first_positions", "fit_dtype", "corpus", "n_prompts")
    assert {key: ours["metadata"][key] for key in said} == {key: theirs["metadata"][key] for key in said}
    again = JacobianLens.load(of, tmp_path / "ours.pt")
    assert all(torch.equal(again.matrix(layer), lens.matrix(layer)) for layer in lens.layers)


# Every form


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_gives_the_same_means_whatever_it_is_called(tmp_path: Path, form: str) -> None:
    by = matrices()
    for name in ("lens.bin", "qwen_jacobian_lens.npz"):
        assert same(JacobianLens.load(model(), FORMS[form](tmp_path / name, by)), by), name


def test_sums_are_divided_by_the_passages_in_the_file_and_not_by_what_a_file_beside_says(tmp_path: Path) -> None:
    path = sums(tmp_path / "lens.pt", matrices(), target_layer=LAYERS - 1, skip_first=16)
    (tmp_path / "config.yaml").write_text("n_prompts: 615\nmodel_name: org/tiny\n")
    lens = JacobianLens.load(model(), path)
    assert same(lens, matrices())
    assert lens.passages == 80
    assert lens.about["beside"]["n_prompts"] == 615
    empty = {"jacobian_sum": matrices(), "n_done": 0}
    torch.save(empty, path)
    with pytest.raises(lk.LoadError, match=r"says 0 of them, so there is no mean"):
        JacobianLens.load(model(), path)


def test_what_an_approximation_is_made_of_is_remembered(tmp_path: Path) -> None:
    lens = JacobianLens.load(model(), FORMS["jspace"](tmp_path / "lens.pt", matrices()))
    assert lens.about["approximate"] == {"probes": 16}


def test_a_file_of_some_layers_is_a_lens_of_some_layers(tmp_path: Path) -> None:
    by = {1: matrices()[1]}
    assert same(JacobianLens.load(model(), reference(tmp_path / "lens.pt", by)), by)


def test_layers_kept_as_words_and_as_one_stack_are_read(tmp_path: Path) -> None:
    by = matrices()
    torch.save({"J": {str(layer): matrix for layer, matrix in by.items()}}, tmp_path / "words.pt")
    torch.save({"J": torch.stack(list(by.values())), "source_layers": list(by)}, tmp_path / "stack.pt")
    for name in ("words.pt", "stack.pt"):
        assert same(JacobianLens.load(model(), tmp_path / name), by)


# What they are derivatives of and by


def test_the_identity_of_the_last_layer_may_be_kept(tmp_path: Path) -> None:
    by = matrices()
    lens = JacobianLens.load(model(), reference(tmp_path / "lens.pt", {**by, LAYERS - 1: torch.eye(D)}))
    assert same(lens, by)
    assert lens.target == "final"


def test_a_lens_of_the_penultimate_residual_is_known_by_its_identity(tmp_path: Path) -> None:
    by = matrices(LAYERS - 2)
    ones = {LAYERS - 2: torch.eye(D)}
    for name, kept in (("one.pt", ones), ("two.pt", ones | {LAYERS - 1: torch.eye(D)})):
        lens = JacobianLens.load(model(), reference(tmp_path / name, {**by, **kept}))
        assert same(lens, by)
        assert lens.target == "penultimate"
        assert torch.equal(lens.matrix(LAYERS - 2), torch.eye(D))
    said = JacobianLens.load(model(), sums(tmp_path / "sums.pt", by, target_layer=LAYERS - 2))
    assert said.target == "penultimate"


def test_without_it_the_person_is_asked(tmp_path: Path) -> None:
    path = reference(tmp_path / "lens.pt", matrices(LAYERS - 2))
    with pytest.raises(
        lk.LoadError, match=r"layers 0 to 1 of a model with 4: .* Say target=\"penultimate\" or target="
    ):
        JacobianLens.load(model(), path)
    assert JacobianLens.load(model(), path, target="penultimate").target == "penultimate"
    assert JacobianLens.load(model(), path, target="final").target == "final"


def test_a_word_against_what_the_file_says_is_refused(tmp_path: Path) -> None:
    path = transformer_lens(tmp_path / "lens.pt", matrices(), target_layer=LAYERS - 1)
    assert same(JacobianLens.load(model(), path), matrices())
    with pytest.raises(lk.LoadError, match=r"says that its target is 'final', and not 'penultimate'"):
        JacobianLens.load(model(), path, target="penultimate")
    with pytest.raises(lk.LoadError, match=r"says that its source is 'resid_post', and not 'z'"):
        JacobianLens.load(model(), path, source="z")


def test_a_lens_of_the_heads_is_known_by_its_last_layer(tmp_path: Path) -> None:
    by = heads()
    lens = JacobianLens.load(model(), reference(tmp_path / "lens.pt", by))
    assert lens.layers == ()
    assert same(lens, by, 1e-2, "z")
    h = torch.randn(2, 5, 4, D // 4)
    torch.testing.assert_close(lens.transport(h, ("z", 3)), h.flatten(-2) @ lens.matrix(3, "z").T)
    one = lens.transport(h[:, :, 1], ("z", 3, 1))
    alone = torch.zeros_like(h)
    alone[:, :, 1] = h[:, :, 1]
    torch.testing.assert_close(one, lens.transport(alone, ("z", 3)))


def test_a_matrix_of_the_last_layer_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = reference(tmp_path / "lens.pt", matrices(LAYERS))
    with pytest.raises(lk.LoadError, match=r"each of org/tiny's 4 layers, .* not the identity \(0\.9. of it is\)"):
        JacobianLens.load(model(), path)
    assert JacobianLens.load(model(), path, source="resid_post").layers == (0, 1, 2)


def test_the_lens_of_another_layer_set_is_refused(tmp_path: Path) -> None:
    path = reference(tmp_path / "deeper.pt", matrices(LAYERS + 2))
    with pytest.raises(ModelMismatch, match=r"has layers 0 to 5, and org/tiny has layers 0 to 3"):
        JacobianLens.load(model(), path)
    below = {**matrices(2), 2: matrices()[2], 1: torch.eye(D)}
    with pytest.raises(lk.LoadError, match=r"is the identity at layer 1: its target is what leaves that layer"):
        JacobianLens.load(model(), reference(tmp_path / "below.pt", below))
    with pytest.raises(ModelMismatch, match=r"its target is what leaves layer 9"):
        JacobianLens.load(model(), sums(tmp_path / "sums.pt", matrices(), target_layer=9))


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    wide = {layer: torch.randn(D, 4 * D) for layer in range(3)}
    with pytest.raises(ModelMismatch, match=r"\(32, 128\), and org/tiny has d_model 32 and heads of 32 in all"):
        JacobianLens.load(model(), reference(tmp_path / "wide.pt", wide))
    with pytest.raises(ModelMismatch, match=r"it has|matrices \(32, 32\)"):
        JacobianLens.load(lk.load(PUBLISHED / "model"), reference(tmp_path / "lens.pt", matrices()))


def test_what_is_no_jacobian_lens_is_refused_with_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.ones(3, 3), "step": 5}, path)
    with pytest.raises(lk.LoadError, match=r"it has the keys weight, step"):
        JacobianLens.load(model(), path)
    torch.save({"J": matrices(), "input_mean": torch.ones(D)}, path)
    with pytest.raises(lk.LoadError, match=r"input_mean beside its matrices: it is an affine lens"):
        JacobianLens.load(model(), path)
    reference(path, matrices(), provenance={"capture_point": "block_output", "stream_reduce": "mean"})
    with pytest.raises(lk.LoadError, match=r"several residual streams \('mean' of them\)"):
        JacobianLens.load(model(), path)
    torch.save({"J": {0: torch.ones(3)}}, path)
    with pytest.raises(lk.LoadError, match=r"for layer 0, where a matrix should be"):
        JacobianLens.load(model(), path)
    path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(lk.LoadError, match="cannot be read"):
        JacobianLens.load(model(), path)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "was here"),)  # which would raise, or open what is there

    torch.save({"J": Hostile()}, tmp_path / "zip.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"J": Hostile()}, protocol=2))
    for name in ("zip.pt", "old.pt"):
        with pytest.raises(lk.LoadError):
            JacobianLens.load(model(), tmp_path / name)
        with pytest.raises(lk.LoadError):
            JacobianLens.inspect(tmp_path / name)


def test_the_lens_of_another_model_s_name_is_refused(tmp_path: Path) -> None:
    path = transformer_lens(tmp_path / "lens.pt", matrices(), target_layer=LAYERS - 1, model_name="gpt2-small")
    with pytest.raises(ModelMismatch, match="that it is for 'gpt2-small'"):
        JacobianLens.load(model(), path)


# lenskit's own


def fitted() -> JacobianLens:
    ids = torch.randint(131, (2, 10), generator=torch.Generator().manual_seed(3))
    return JacobianLens.fit(model(), ids, skip_first=2, sources=("resid_post", "z", "attn_out"), corpus="random ids")


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 0.0), (torch.float16, 4e-3), (torch.int8, 3e-2)])
def test_a_lens_comes_back_with_all_it_had(tmp_path: Path, dtype: torch.dtype, atol: float) -> None:
    lens = fitted()
    lens.save(tmp_path / "lens.safetensors", dtype=dtype)
    again = JacobianLens.load(model(), tmp_path / "lens.safetensors")
    assert again.about == lens.about
    assert again.sources == lens.sources
    for layer in lens.layers:
        torch.testing.assert_close(again.matrix(layer), lens.matrix(layer), rtol=0, atol=atol)
    torch.testing.assert_close(again.matrix(3, "z"), lens.matrix(3, "z"), rtol=0, atol=atol)
    said = JacobianLens.inspect(tmp_path / "lens.safetensors")
    assert said.dtype == str(dtype).removeprefix("torch.")


def test_int8_is_off_by_half_a_step_at_most(tmp_path: Path) -> None:
    lens = JacobianLens(model(), matrices())
    lens.save(tmp_path / "lens.safetensors", dtype=torch.int8)
    again = JacobianLens.load(model(), tmp_path / "lens.safetensors")
    for layer in lens.layers:
        step = lens.matrix(layer).abs().amax(-1, keepdim=True) / 127
        assert bool(((again.matrix(layer) - lens.matrix(layer)).abs() <= step * 0.501).all())


def test_another_checkpoint_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    lens = JacobianLens(model(), matrices())
    lens.save(tmp_path / "lens.safetensors")
    lens.save(tmp_path / "lens.pt", format="reference")
    for name in ("lens.safetensors", "lens.pt"):
        with pytest.raises(ModelMismatch, match=r"its unembedding is another|another checkpoint"):
            JacobianLens.load(model(seed=1), tmp_path / name)


def test_what_a_form_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds one source, and this lens has resid_post, z, attn_out"):
        fitted().save(tmp_path / "lens.pt", format="reference")
    lens = JacobianLens(model(), {0: torch.full((D, D), 1e6)})
    with pytest.raises(ValueError, match="holds floats only, not int8"):
        lens.save(tmp_path / "lens.pt", format="reference", dtype=torch.int8)
    with pytest.raises(ValueError, match="layer 0 does not fit into float16: write it as float32"):
        lens.save(tmp_path / "lens.pt", format="reference")
    with pytest.raises(ValueError, match=r"call it lens\.pt\.safetensors"):
        lens.save(tmp_path / "lens.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_lens_of_the_heads_alone_keeps_its_source_in_the_reference_format(tmp_path: Path) -> None:
    lens = JacobianLens(model(), {}, components={"z": heads()})
    lens.save(tmp_path / "lens.pt", format="reference", dtype=torch.float32)
    again = JacobianLens.load(model(), tmp_path / "lens.pt")
    assert again.layers == ()
    assert same(again, heads(), 1e-6, "z")


# Where it lies


def test_a_folder_as_neuronpedia_s_is_searched_for_the_model_s_name(tmp_path: Path) -> None:
    for name in ("tiny", "other"):
        folder = tmp_path / name / "jlens" / "Salesforce-wikitext"
        folder.mkdir(parents=True)
        reference(folder / f"{name}_jacobian_lens.pt", matrices(seed=len(name)))
        (folder / "config.yaml").write_text("dataset: wikitext\n")
        (folder / f"{name}_convergence.csv").write_text("n,delta\n")
    lens = JacobianLens.load(model(), tmp_path)
    assert same(lens, matrices(seed=4))
    assert lens.about["beside"] == {"dataset": "wikitext"}
    elsewhere = lk.Model(model().hf_model, name="org/third")
    with pytest.raises(lk.LoadError, match=r"no lens called org/third_jacobian_lens, but 2: other/jlens/"):
        JacobianLens.load(elsewhere, tmp_path)


def test_the_hub_s_cache_is_read_without_a_network(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    repo = tmp_path / "models--neuronpedia--jacobian-lens"
    inside = "tiny/jlens/Salesforce-wikitext/tiny_jacobian_lens.pt"
    path = repo / "snapshots" / commit / inside
    path.parent.mkdir(parents=True)
    reference(path, matrices())
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for where in (None, "neuronpedia/jacobian-lens", f"neuronpedia/jacobian-lens/{inside}"):
        assert same(JacobianLens.load(model(), where, cache_dir=tmp_path), matrices())


def test_a_lens_that_is_nowhere_is_refused_with_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(lk.LoadError, match=r"(?s)a file or folder: .*the Hugging Face cache: .*HF_HUB_OFFLINE"):
        JacobianLens.load(model(), "nobody/nothing", cache_dir=tmp_path)
    with pytest.raises(lk.LoadError, match="holds no Jacobian lens"):
        JacobianLens.load(model(), tmp_path)
    with pytest.raises(lk.LoadError, match="nothing is there"):
        JacobianLens.load(model(), tmp_path / "lens.safetensors")


# What a file says


def test_a_file_says_what_it_is_without_a_model(tmp_path: Path) -> None:
    said = JacobianLens.inspect(transformer_lens(tmp_path / "lens.pt", matrices(), target_layer=3))
    assert (said.layers, said.shape, said.dtype, said.passages) == ((0, 1, 2), (D, D), "float16", 7)
    assert (said.source, said.target, said.model) == ("resid_post", "the output of layer 3", "org/tiny")
    assert "TransformerLens" in repr(said)
    assert JacobianLens.inspect(sums(tmp_path / "sums.pt", matrices())).passages == 80
    for write in (numpy, mlx):
        said = JacobianLens.inspect(write(tmp_path / "other", matrices()))
        assert (said.layers, said.passages, said.target) == ((0, 1, 2), 7, None)
