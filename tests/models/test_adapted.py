"""Models with PEFT adapters in them."""

from typing import Any

import pytest
import torch

import lenskit as lk
from tests.models.exercise import IDS, called, exercise, generated_as_itself, gradient
from tests.models.needs import needs
from tests.models.tiny import tiny

peft: Any = needs("peft")


def adapted(family: str, targets: list[str], **config: Any) -> Any:
    """A PEFT model whose adapter does something: PEFT itself makes one that does nothing yet."""
    made = peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", **config)
    model = peft.get_peft_model(tiny(family), made)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=generator)
    return model.eval()


def llama(**config: Any) -> Any:
    return adapted("llama", ["q_proj", "v_proj"], **config)


def gpt2() -> Any:
    return adapted("gpt2", ["c_attn"], fan_in_fan_out=True)


@pytest.mark.parametrize(
    "made, missing",
    [
        (llama, ("pos_embed",)),
        (gpt2, ()),
        (lambda: adapted("llama", ["o_proj", "gate_proj", "down_proj", "lm_head"]), ("pos_embed",)),
        (lambda: llama(modules_to_save=["lm_head"]), ("pos_embed",)),
    ],
    ids=["llama", "gpt2", "what is written to the residual stream", "a head of its own"],
)
def test_a_model_with_lora_does_everything(made: Any, missing: tuple[str, ...]) -> None:
    peft_model = made()
    model, plain = lk.Model(peft_model), called(peft_model)
    assert model.hf_model is peft_model
    assert not torch.equal(plain, called(tiny(model.anatomy.family.lower()))), "else this tests nothing"
    exercise(model, plain, missing)
    generated_as_itself(model, peft_model)
    assert gradient(model).abs().sum() > 0


def test_adapters_are_switched_off_and_on_as_ever() -> None:
    peft_model = llama()
    model, without = lk.Model(peft_model), lk.Model(tiny("llama"))
    on = model.run(IDS, keep=["q", "resid_post"])
    with peft_model.disable_adapter():
        off = model.run(IDS, keep=["q", "resid_post"])
    assert torch.equal(off.logits, without.run(IDS).logits)
    assert torch.equal(off["q"], without.run(IDS, keep="q")["q"])
    assert not torch.equal(on["q"], off["q"])
    assert torch.equal(model.run(IDS).logits, on.logits)


def test_results_say_which_adapters_acted() -> None:
    peft_model = llama()
    model = lk.Model(peft_model)
    assert model.run(IDS).provenance["adapters"] == ["default"]
    with peft_model.disable_adapter():
        assert model.run(IDS).provenance["adapters"] == []
    assert lk.Model(tiny("llama")).provenance["adapters"] == []


def test_a_live_lens_does_not_read_the_keys_of_other_adapters() -> None:
    from lenskit.models.prefix import Prefix

    peft_model = llama()
    prefix = Prefix(lk.Model(peft_model))
    ids = IDS[0].tolist()
    prefix.run(ids, "resid_post", known=0)
    assert prefix.shared(ids) == len(ids)
    with peft_model.disable_adapter():
        assert prefix.shared(ids) == 0
        again = prefix.run(ids, "resid_post", known=len(ids))
        assert torch.equal(again["resid_post"], lk.Model(tiny("llama")).run(ids, keep="resid_post")["resid_post"])


def test_module_paths_are_those_of_peft_and_those_of_the_model_itself() -> None:
    model = lk.Model(llama())
    own, whole = "model.layers.1.mlp", "base_model.model.model.layers.1.mlp"
    run = model.run(IDS, keep=[own, whole, "model.layers.1.self_attn.q_proj.lora_A.default"])
    assert torch.equal(run[own], run[whole])
    assert run["model.layers.1.self_attn.q_proj.lora_A.default"].shape == (2, 6, 2)


def test_a_weight_is_not_shown_without_its_adapter() -> None:
    weights = lk.Model(llama()).weights
    with pytest.raises(lk.SiteUnavailable, match="W_Q"):
        _ = weights.W_Q[1]
    assert torch.equal(weights.W_O[1], lk.Model(tiny("llama")).weights.W_O[1])


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_learned_prompts_are_refused_with_the_reason(kind: str) -> None:
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft_model = peft.get_peft_model(tiny("llama"), config)
    with pytest.raises(TypeError, match=r"learned vectors before the prompt.*not those of your tokens.*get_base_model"):
        lk.Model(peft_model)
    assert torch.equal(lk.Model(peft_model.get_base_model().eval()).run(IDS).logits, called(tiny("llama")))


def test_a_tuner_that_does_more_than_call_its_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    peft_model = llama()
    monkeypatch.setattr(type(peft_model.base_model), "forward", lambda self, *args: None, raising=False)
    with pytest.raises(TypeError, match="LoraModel does more than call the model"):
        lk.Model(peft_model)


def test_an_adapter_that_transformers_itself_put_in() -> None:
    hf_model: Any = tiny("llama")
    hf_model.add_adapter(peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False), "mine")
    hf_model.eval()
    model = lk.Model(hf_model)
    exercise(model, called(hf_model))
    assert model.provenance["adapters"] == ["mine"]
