"""Quantised models: what is found by numbers is found in them too; what needs float weights says so."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lenskit as lk
from tests.models.architectures import build
from tests.models.exercise import IDS, called, exercise, generated_as_itself, gradient
from tests.models.tiny import tiny


class Int8Linear(nn.Module):
    """A linear layer of eight-bit numbers with a scale for each row, as many packages make it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)  # pyright: ignore


class PackedLinear(Int8Linear):
    """The same with its weight in one flat buffer of another name, as GPTQ and AWQ have it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", self.weight.flatten())  # pyright: ignore
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        weight = self.qweight.unflatten(0, (self.out_features, -1))  # pyright: ignore
        return F.linear(x, weight.to(x.dtype) * self.scale, self.bias)  # pyright: ignore


class WithoutGradient(Int8Linear):
    """The same with a kernel for inference, through which no gradient comes."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


def replaced(kind: Callable[[nn.Linear], nn.Module], head: bool = True) -> Any:
    hf_model: Any = tiny("llama", d_model=64)
    for path, module in list(hf_model.named_modules()):
        if isinstance(module, nn.Linear) and (head or path != "lm_head"):
            hf_model.set_submodule(path, kind(module))
    return hf_model


def torchao(config: str) -> Any:
    """With torchao, which is in no list of ours: whoever has it gets four lines of noise in each notebook."""
    if find_spec("torchao") is None:
        pytest.skip("torchao is not installed: pip install --no-deps torchao, to test with it once")
    import torchao.quantization as quantization  # pyright: ignore[reportMissingImports]

    quantization.quantize_(hf_model := tiny("llama", d_model=64), getattr(quantization, config)())
    return hf_model


def bitsandbytes() -> Any:
    if find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install --no-deps bitsandbytes, to test with it once")
    import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]

    def eight_bit(linear: nn.Linear) -> nn.Module:
        made = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias=False, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(linear.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
        return made

    return replaced(eight_bit, head=False).to("cpu")


KINDS: dict[str, Callable[[], Any]] = {
    "eight bits": lambda: replaced(Int8Linear),
    "packed": lambda: replaced(PackedLinear),
    "no gradient": lambda: replaced(WithoutGradient),
    "torchao, weights": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao, activations too": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
    "bitsandbytes": bitsandbytes,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_does_everything(kind: str) -> None:
    hf_model = KINDS[kind]()
    plain = called(hf_model)
    assert not torch.equal(plain, called(tiny("llama", d_model=64))), "else nothing is quantised"
    model = lk.Model(hf_model)
    assert model.dtype == torch.float32
    exercise(model, plain)
    generated_as_itself(model, hf_model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torchs_own_dynamic_quantisation() -> None:
    """It scales all positions by one number, so a later token does change what comes before it; check says so."""
    quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantize is None:
        pytest.skip("this torch has no torch.ao.quantization.quantize_dynamic any more: torchao is in its place")
    hf_model = quantize(tiny("llama"), {nn.Linear}, dtype=torch.qint8)
    model = lk.Model(hf_model)
    everything = [name for name in model.sites.reasons if name not in ("pos_embed", "logits")]
    assert torch.equal(model.run(IDS, keep=everything).logits, called(hf_model))
    assert model.check()["a later token changes nothing before it"].passed is not True
    with pytest.raises(ValueError, match=r"no gradient can be taken in this Llama"):
        gradient(model)


@pytest.mark.parametrize("kind", ["eight bits", "packed", "torchao, weights", "bitsandbytes"])
def test_gradients_come_through_what_has_them(kind: str) -> None:
    assert gradient(lk.Model(KINDS[kind]())).abs().sum() > 0


@pytest.mark.parametrize("kind", ["no gradient", "torchao, activations too"])
def test_a_gradient_that_would_be_cut_off_is_refused(kind: str) -> None:
    model = lk.Model(KINDS[kind]())
    said = (
        r"no gradient can be taken in this Llama: none comes through 'model.layers.0.self_attn.q_proj'.*without quant"
    )
    with pytest.raises(ValueError, match=said):
        gradient(model)
    with pytest.raises(ValueError, match=said):
        model.trace(IDS, grads=True)
    assert torch.equal(model.run(IDS).logits, called(model.hf_model))


@pytest.mark.parametrize("model_type", ["deepseek_v32", "ctrl", "olmoe"])
def test_a_part_that_the_model_itself_runs_without_gradients_is_no_reason(model_type: str) -> None:
    """Which keys are chosen has no gradient in DeepSeek; CTRL writes into its embedding; OLMoE chooses experts."""
    lk.Model(build(model_type)).anatomy.check_gradients()


def test_frozen_weights_are_no_reason_to_refuse_a_gradient() -> None:
    hf_model = tiny("llama").requires_grad_(False)
    assert torch.equal(gradient(lk.Model(hf_model)), gradient(lk.Model(tiny("llama"))))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bitsandbytes"])
def test_what_needs_float_weights_says_so(kind: str) -> None:
    model = lk.Model(KINDS[kind]())
    with pytest.raises(lk.SiteUnavailable, match=r"W_Q does not exist.*quantised.*Use the site 'q'"):
        _ = model.weights.W_Q[0]
    with pytest.raises(lk.SiteUnavailable, match="is it quantised"):
        _ = model.weights.W_U.shape
    with pytest.raises(TypeError, match=r"rows cannot be read as directions.*without quantization"):
        lk.directions(model, [3])
    assert model.weights.W_E.shape == (131, 64)


def test_an_embedding_of_eight_bits_has_the_models_own_dtype() -> None:
    hf_model: Any = tiny("llama")

    class Int8Embedding(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter((weight * 40).round().to(torch.int8), requires_grad=False)

        def forward(self, ids: Tensor) -> Tensor:
            return F.embedding(ids, self.weight).float() / 40

    hf_model.set_input_embeddings(Int8Embedding(hf_model.get_input_embeddings().weight.detach()))
    model = lk.Model(hf_model)
    assert model.dtype == torch.float32
    exercise(model, called(hf_model))
