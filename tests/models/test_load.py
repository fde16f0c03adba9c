"""`lenskit.load`: a model from a name, a folder or an object; or an error that says what was tried."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import lenskit as lk
from lenskit.models.files import hub
from lenskit.models.files.load_error import LoadError
from tests.models.tiny import tiny, tiny_tokenizer

VOCAB = 300
IDS = torch.arange(3, 20)[None]
TEXT = "The capital of  France is 日本語\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny("llama", vocab=VOCAB)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(VOCAB)


@pytest.fixture
def folder(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    llama.save_pretrained(tmp_path / "tiny-llama")
    tokenizer.save_pretrained(tmp_path / "tiny-llama")
    return tmp_path / "tiny-llama"


@pytest.fixture
def hub_cache(folder: Path, tmp_path: Path) -> Path:
    """A Hugging Face cache with the model org/tiny at one commit, which is its branch main."""
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


# What can be loaded


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_folder(folder: Path, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, as_type: type):
    model = lk.load(as_type(folder))
    assert torch.equal(logits(model.hf_model), logits(llama))
    assert model.tokenizer is not None
    assert model.tokenizer(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert model.name == "tiny-llama"
    assert not model.hf_model.training


def test_a_folder_without_tokenizer_files_gives_a_model_that_reads_ids(llama: PreTrainedModel, tmp_path: Path):
    llama.save_pretrained(tmp_path)
    model = lk.load(tmp_path)
    assert model.tokenizer is None
    assert torch.equal(model.run(IDS).logits, logits(llama))


def test_a_given_tokenizer_is_used_instead_of_the_models_own(folder: Path):
    other = tiny_tokenizer(280)
    assert lk.load(folder, other).tokenizer is other


def test_a_hugging_face_model_is_wrapped_and_not_changed(tokenizer: PreTrainedTokenizerFast):
    hf_model = tiny("gpt2", vocab=VOCAB).train()
    hf_model.requires_grad_(False)
    before = {name: value.clone() for name, value in hf_model.state_dict().items()}
    model = lk.load(hf_model, tokenizer)
    assert model.hf_model is hf_model
    assert model.tokenizer is tokenizer
    assert hf_model.training, "a model in training is the user's business"
    assert not any(parameter.requires_grad for parameter in hf_model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in hf_model.state_dict().items())


def test_a_model_is_returned_as_it_is(llama: PreTrainedModel):
    model = lk.Model(llama)
    assert lk.load(model) is model


def test_a_name_on_the_hub_comes_from_the_hugging_face_cache_without_asking_the_hub(
    hub_cache: Path, llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hub, "ask", lambda *_: pytest.fail("the hub was asked"))
    model = lk.load("org/tiny", cache_dir=hub_cache)
    assert torch.equal(logits(model.hf_model), logits(llama))
    assert (model.name, model.revision) == ("org/tiny", COMMIT)
    assert model.tokenizer is not None
    assert model.tokenizer.decode(model.tokenizer(TEXT)["input_ids"]) == TEXT


def test_a_folder_comes_before_a_name_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, llama: PreTrainedModel):
    monkeypatch.chdir(folder.parent)
    assert torch.equal(logits(lk.load("tiny-llama").hf_model), logits(llama))


# How it is loaded


def test_weights_are_float32_on_a_cpu_whatever_the_checkpoint_has(tmp_path: Path):
    tiny("llama", vocab=VOCAB).bfloat16().save_pretrained(tmp_path)
    assert lk.load(tmp_path).dtype == torch.float32
    assert lk.load(tmp_path, device="cpu").dtype == torch.float32
    assert lk.load(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert lk.load(tmp_path, dtype=torch.float16).dtype == torch.float16


def test_weights_keep_the_checkpoints_own_dtype_on_an_accelerator(tmp_path: Path):
    tiny("llama", vocab=VOCAB).bfloat16().save_pretrained(tmp_path)
    model = lk.load(tmp_path, device="meta")  # stands in for one: not a CPU
    assert (model.dtype, model.device.type) == (torch.bfloat16, "meta")


def test_other_arguments_go_to_transformers_which_refuses_what_it_does_not_know(folder: Path):
    hf_model: Any = lk.load(folder, attn_implementation="eager").hf_model
    assert hf_model.config._attn_implementation == "eager"
    with pytest.raises(TypeError, match="atention"):
        lk.load(folder, atention="eager")


# What cannot be loaded


def test_a_wrong_name_lists_what_was_tried(hub_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError) as caught:
        lk.load("org/tinny", cache_dir=hub_cache)
    said = str(caught.value)
    assert "No model 'org/tinny' was found" in said
    assert f"a folder: there is none at {tmp_path / 'org' / 'tinny'}" in said
    assert f"the Hugging Face cache: not in {hub_cache}" in said
    assert "the Hugging Face hub: not looked for on the hub, which HF_HUB_OFFLINE switches off" in said
    assert "Did you mean 'org/tiny'?" in said
    assert 'lenskit.load("demo")' in said
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["dmo", "Demo"])
def test_a_name_close_to_demo_is_told_so(name: str):
    with pytest.raises(LoadError, match="Did you mean 'demo'"):
        lk.load(name)


def test_the_demo_model_is_not_passed_off_as_the_base_model():
    with pytest.raises(LoadError, match="No model 'smollm2-135m'"):
        lk.load("smollm2-135m")


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "", "../nothing-here"])
def test_a_name_that_no_hub_could_have_is_told_so(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    with pytest.raises(LoadError, match=r"not a name the Hugging Face hub could have|holds no model"):
        lk.load(name)


def refusal(kind: type[HfHubHTTPError], message: str) -> HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None)
    return kind(message, response=response)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ConnectionError("Name or service not known"), "the hub did not answer: Name or service not known"),
        (refusal(RepositoryNotFoundError, "404"), "not on the hub"),
        (refusal(GatedRepoError, "403"), "ask for access first"),
        (
            refusal(RevisionNotFoundError, "404"),
            "without the revision 'v9'",
        ),
        (refusal(HfHubHTTPError, "502 Bad"), "answered with an error"),
    ],
)
def test_the_reason_why_the_hub_did_not_give_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception, reason: str
):
    asked = []

    def model_info(_: object, name: str, **options: Any) -> None:
        asked.append((name, options["revision"]))
        raise failure

    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    with pytest.raises(LoadError, match=reason) as caught:
        lk.load("gpt2", revision="v9", cache_dir=tmp_path)
    assert asked == [("gpt2", "v9")], "once: the user waits"
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is failure


def test_weights_missing_from_the_cache_are_asked_of_the_hub(hub_cache: Path):
    (hub_cache / "models--org--tiny" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(LoadError) as caught:
        lk.load("org/tiny", cache_dir=hub_cache)
    assert "the Hugging Face cache: transformers cannot load org/tiny" in str(caught.value)
    assert "the Hugging Face hub: not looked for on the hub, which HF_HUB_OFFLINE" in str(caught.value)


def test_a_path_is_never_a_name_on_the_hub(tmp_path: Path):
    with pytest.raises(LoadError, match=r"no model folder at .*gpt2: nothing is there"):
        lk.load(tmp_path / "gpt2")


def test_a_folder_that_holds_no_model_is_told_with_what_it_holds(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LoadError, match=r"no config\.json\. It has notes\.txt\."):
        lk.load(tmp_path)


def test_a_file_that_is_not_gguf_is_no_model(folder: Path):
    with pytest.raises(LoadError, match=r"no model folder at .*model\.safetensors: a file is there"):
        lk.load(folder / "model.safetensors")


def test_a_checkpoint_without_its_head_is_refused_rather_than_given_a_random_one(
    llama: PreTrainedModel, tmp_path: Path
):
    body: Any = llama.base_model
    body.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"lacks 1 of the weights of a LlamaForCausalLM.*lm_head"):
        lk.load(tmp_path)


def test_truncated_weights_are_refused(folder: Path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(LoadError, match=r"cannot load .*tiny-llama"):
        lk.load(folder)


def test_a_broken_tokenizer_is_refused_with_the_remedy(folder: Path):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match=r"tokenizer of .*tiny-llama.*Pass one: lenskit\.load"):
        lk.load(folder)


def test_a_repository_that_wants_to_run_its_own_code_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "my_own"
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(LoadError, match="lenskit runs no code from a repository"):
        lk.load(folder)


def test_a_pickle_that_holds_more_than_weights_is_refused(folder: Path):
    class Opened:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("the pickle was executed",))

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Opened()}, folder / "pytorch_model.bin")
    with pytest.raises(LoadError, match="a pickle that holds more than weights"):
        lk.load(folder)


# What does not fit together


@pytest.mark.parametrize(
    ("name", "value"),
    [("trust_remote_code", True), ("weights_only", False), ("gguf_file", "a"), ("torch_dtype", "auto")],
)
def test_an_option_that_load_does_not_take_is_named_with_the_reason(folder: Path, name: str, value: Any):
    with pytest.raises(TypeError, match=f"does not take {name}: "):
        lk.load(folder, **{name: value})


@pytest.mark.parametrize("option", ["dtype", "device", "revision", "attn_implementation"])
def test_a_loaded_model_takes_no_options(llama: PreTrainedModel, option: str):
    with pytest.raises(TypeError, match=f"loaded already, so {option} cannot apply"):
        lk.load(llama, **{option: "x"})


def test_a_model_keeps_its_tokenizer(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(TypeError, match=r"lenskit\.Model\(model\.hf_model, tokenizer\)"):
        lk.load(lk.Model(llama), tokenizer)


@pytest.mark.parametrize("what", ["demo", "x.gguf"])
def test_a_revision_is_for_the_hub(what: str):
    with pytest.raises(TypeError, match=f"{what} is not loaded from there"):
        lk.load(what, revision="main")


def test_a_tokenizer_given_by_name_is_refused(folder: Path):
    with pytest.raises(TypeError, match=r"AutoTokenizer\.from_pretrained\('gpt2'\)"):
        lk.load(folder, "gpt2")


@pytest.mark.parametrize("what", [None, 3, ["gpt2"]])
def test_anything_else_is_refused(what: Any):
    with pytest.raises(TypeError, match="takes a name, a path, a Hugging Face model or a Model"):
        lk.load(what)
