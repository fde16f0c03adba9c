"""Models whose weights are elsewhere: offloaded to memory or disk by accelerate, or never loaded at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, init_empty_weights
from transformers import AutoModelForCausalLM

import lenskit as lk
from lenskit.models.finding.placed import is_offloaded, without_numbers
from tests.models.exercise import IDS, called, exercise, generated_as_itself, gradient
from tests.models.tiny import tiny

LLAMA_MAP = {
    "model.embed_tokens": "disk",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.norm": "disk",
    "lm_head": "disk",
}


def offloaded(how: str, folder: Path) -> Any:
    if how == "cpu_offload":
        cpu_offload(model := tiny("llama"), execution_device=torch.device("cpu"))
    elif how == "disk_offload":
        disk_offload(model := tiny("llama"), str(folder), execution_device=torch.device("cpu"))
    else:
        model: Any = dispatch_model(tiny("llama"), LLAMA_MAP, main_device="cpu", offload_dir=str(folder))  # pyright: ignore[reportArgumentType]
    return model


@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload", "device_map"])
def test_an_offloaded_model_does_everything(how: str, tmp_path: Path) -> None:
    hf_model = offloaded(how, tmp_path)
    assert hf_model.get_input_embeddings().weight.is_meta, "else this tests nothing"
    model, plain = lk.Model(hf_model), called(tiny("llama"))
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    exercise(model, plain)
    generated_as_itself(model, hf_model)
    assert torch.equal(gradient(model), gradient(lk.Model(tiny("llama"))))


def test_a_device_map_is_a_matter_of_loading(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "tiny")
    model = lk.load(tmp_path / "tiny", device_map=LLAMA_MAP, offload_folder=str(tmp_path / "offload"))
    assert model.hf_model.hf_device_map == LLAMA_MAP
    assert "on cpu" in repr(model)
    exercise(model, called(tiny("llama")))


def test_tied_weights_offloaded(tmp_path: Path) -> None:
    places = {"transformer.wte": "disk", "transformer.wpe": "cpu", "lm_head": "disk", "transformer.ln_f": "disk"}
    places |= {f"transformer.h.{n}": "disk" if n == 1 else "cpu" for n in range(3)}
    hf_model = dispatch_model(tiny("gpt2"), places, main_device="cpu", offload_dir=str(tmp_path))  # pyright: ignore[reportArgumentType]
    exercise(lk.Model(hf_model), called(tiny("gpt2")), missing=())


def test_what_reads_the_weights_themselves_says_that_they_are_not_there(tmp_path: Path) -> None:
    model = lk.Model(offloaded("device_map", tmp_path))
    assert "offloaded" in repr(model.weights)
    with pytest.raises(lk.SiteUnavailable, match=r"W_U does not exist.*offloaded"):
        _ = model.weights.W_U.shape
    with pytest.raises(TypeError, match=r"a Linear of offloaded numbers.*Load the model without.*offloading"):
        lk.directions(model, [3])
    with pytest.raises(lk.SiteUnavailable, match="its weights are offloaded and come while it runs: run it"):
        _ = model.trace(IDS).shapes
    assert torch.equal(model.run(IDS).logits, called(tiny("llama")))  # and nothing was spoilt by asking


# Never loaded


def never_loaded() -> Any:
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(tiny("llama").config)


def test_a_model_on_the_meta_device_says_what_it_is_and_does_not_run() -> None:
    model = lk.Model(never_loaded())
    assert "3 layers, float32 on meta" in repr(model)
    asked: list[Any] = [
        lambda: model.run(IDS),
        lambda: model.run(IDS, keep="model.layers.0"),
        lambda: model.trace(IDS).logits,
        lambda: model.generate(IDS, 2),
        lambda: model.run(IDS, keep="model.norm", grads=lambda run: run.logits.sum()),
    ]
    for ask in asked:
        with pytest.raises(
            ValueError, match=r"Llama cannot run: .*meta device \(model.embed_tokens.weight is\).*lk.load"
        ):
            ask()


def test_its_sites_are_found_on_numbers_so_they_are_not_found_without() -> None:
    model = lk.Model(never_loaded())
    assert not list(model.sites)
    assert "none: no site can be found in this Llama, since that takes a small forward" in repr(model.sites)
    for ask in (lambda: model.run(IDS, keep="resid_post"), lambda: model.check()):
        with pytest.raises(lk.SiteUnavailable, match="meta device"):
            ask()


def test_its_shapes_are_those_of_its_modules() -> None:
    shapes = lk.Model(never_loaded()).trace(IDS).shapes
    assert shapes["model.layers.1.mlp.up_proj"] == (2, 6, 96)
    assert shapes["lm_head"] == (2, 6, 131)


def test_it_can_be_loaded_afterwards() -> None:
    model = lk.Model(never_loaded())
    assert "none" in repr(model.sites)
    with pytest.raises(ValueError, match="cannot run"):
        model.run(IDS)
    model.hf_model.load_state_dict(tiny("llama").state_dict(), assign=True)
    model.hf_model.eval()
    exercise(model, called(tiny("llama")))


def test_a_single_weight_that_is_missing_is_named() -> None:
    hf_model: Any = tiny("llama")
    hf_model.model.layers[1].mlp.up_proj.to("meta")
    assert not is_offloaded(hf_model)
    assert "model.layers.1.mlp.up_proj.weight is" in str(without_numbers(hf_model))
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is"):
        lk.Model(hf_model).run(IDS)
