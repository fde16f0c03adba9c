"""Models in half precision, models in training mode, and the checkpoints of a training run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lenskit as lk
from lenskit.models.files import hub
from lenskit.models.files.load_error import LoadError
from tests.models.exercise import IDS, called, exercise, generated_as_itself, gradient
from tests.models.tiny import tiny, tiny_tokenizer

# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "missing"), [("llama", ("pos_embed",)), ("gpt2", ()), ("gemma2", ("pos_embed",))])
def test_a_model_in_half_precision_does_everything(family: str, missing: tuple[str, ...], dtype: torch.dtype) -> None:
    hf_model: Any = tiny(family)
    hf_model.to(dtype)
    model = lk.Model(hf_model)
    assert model.dtype == dtype
    kept = exercise(model, called(hf_model), missing)
    assert kept["resid_post"].dtype == kept.logits.dtype == dtype
    generated_as_itself(model, hf_model)
    assert gradient(model).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt_neox", "granite", "phi", "falcon", "olmo2"])
def test_its_check_passes_in_parallel_blocks_too(family: str, dtype: torch.dtype) -> None:
    hf_model: Any = tiny(family)
    model = lk.Model(hf_model.to(dtype))
    check = model.check()
    assert check.passed, check
    assert check["resid_pre + attn_out + mlp_out = resid_post"].passed is True


@pytest.mark.parametrize("training", [False, True])
def test_numbers_too_large_for_their_dtype_are_named_as_such(training: bool) -> None:
    hf_model: Any = tiny("llama").half().train(training)
    with torch.no_grad():
        hf_model.model.layers[1].mlp.down_proj.weight.fill_(60_000.0)
    model = lk.Model(hf_model)
    asked: list[Any] = [
        lambda: model.run(IDS, keep="attn_out"),
        lambda: model.trace(IDS)["resid_post", 1],
        lambda: model.check(),
    ]
    for ask in asked:
        with pytest.raises(lk.SiteUnavailable, match=r"layer 1 of this Llama.* inf or nan, in float16.*'float32'"):
            ask()
    assert repr(model.sites).count("inf or nan") == 1
    # What needs no site still runs: to look where it begins.
    module = "model.layers.0.mlp"
    assert bool(model.run(IDS, keep=module)[module].isfinite().all())
    assert lk.Model(hf_model.float()).check().passed


# Training mode


def test_dropout_is_neither_switched_off_nor_mistaken_for_an_architecture() -> None:
    hf_model: Any = tiny("gpt2").train()
    model = lk.Model(hf_model)
    said = r"GPT2LMHeadModel is in training mode and its dropout is active.*model\.hf_model\.eval\(\)"
    asked: list[Any] = [
        lambda: model.run(IDS, keep="resid_post"),
        lambda: model.run(IDS, edits=lk.Zero("z")),
        lambda: model.trace(IDS)["q", 1],
        lambda: model.trace(IDS).shapes,
        lambda: model.check(),
        lambda: model.weights.W_Q[0],
        lambda: lk.LogitLens(model).read(IDS[0]),
    ]
    for ask in asked:
        with pytest.raises(lk.SiteUnavailable, match=said):
            ask()
    assert repr(model.sites).count("dropout is active") == 1
    assert all(module.training for module in hf_model.modules())
    # What needs no site still runs, with dropout, as the model itself does.
    torch.manual_seed(0)
    plain = called(hf_model)
    torch.manual_seed(0)
    assert torch.equal(model.run(IDS).logits, plain)
    assert model.run(IDS, keep="transformer.h.1")["transformer.h.1"].shape == (2, 6, 32)

    hf_model.eval()
    exercise(model, called(tiny("gpt2")), missing=())
    hf_model.train()
    assert model.run(IDS, keep="resid_post")["resid_post"].shape == (3, 2, 6, 32)  # the sites are known by now


def test_looking_draws_none_of_the_persons_random_numbers() -> None:
    model = lk.Model(tiny("gpt2").train())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _ = model.sites
    assert torch.equal(torch.rand(3), expected)


def test_training_mode_without_dropout_is_no_reason_to_refuse() -> None:
    hf_model: Any = tiny("llama").train()
    exercise(lk.Model(hf_model), called(tiny("llama")))
    assert hf_model.training


# Checkpoints of a training run

COMMITS = {"main": "a" * 40, "step1000": "b" * 40, "step143000": "c" * 40}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A Hugging Face cache with a model at three branches, and at one commit that no branch leads to any more."""
    folder = tmp_path / "models--org--run"
    (folder / "refs").mkdir(parents=True)
    for seed, (branch, commit) in enumerate([*COMMITS.items(), ("", "d" * 40)]):
        tiny("llama", seed=seed, vocab=300).save_pretrained(folder / "snapshots" / commit)
        tiny_tokenizer(300).save_pretrained(folder / "snapshots" / commit)
        if branch:
            (folder / "refs" / branch).write_text(commit)
    return tmp_path


def test_each_revision_is_the_one_that_was_asked_for(checkpoints: Path) -> None:
    asked = [(None, "a"), ("main", "a"), ("step1000", "b"), ("step143000", "c"), ("c" * 40, "c"), ("d" * 40, "d")]
    for revision, letter in asked:
        model = lk.load("org/run", revision=revision, cache_dir=checkpoints)
        run = model.run(IDS)
        assert run.provenance["revision"] == letter * 40
        assert run.provenance["model"] == "org/run"
        assert torch.equal(run.logits, called(tiny("llama", seed="abcd".index(letter), vocab=300)))


def test_the_revisions_in_the_cache_are_told(checkpoints: Path) -> None:
    there = hub.revisions_in_cache("org/run", {"cache_dir": checkpoints})
    assert there == {**COMMITS, "d" * 40: "d" * 40}
    assert hub.revisions_in_cache("org/other", {"cache_dir": checkpoints}) == {}


def test_a_revision_that_is_not_there_is_refused_with_those_that_are(checkpoints: Path) -> None:
    with pytest.raises(LoadError) as caught:
        lk.load("org/run", revision="step2000", cache_dir=checkpoints)
    said = (
        "has no revision 'step2000' of org/run, or not its config.json; it has 'main', 'step1000', 'step143000', 'ddd"
    )
    assert said in str(caught.value)


def test_a_branch_whose_commit_was_deleted_is_not_told(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "models--org--run" / "snapshots" / ("b" * 40))
    assert "step1000" not in hub.revisions_in_cache("org/run", {"cache_dir": checkpoints})
    with pytest.raises(LoadError, match="no revision 'step1000'"):
        lk.load("org/run", revision="step1000", cache_dir=checkpoints)
