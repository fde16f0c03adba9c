"""A GGUF file is read exactly, or refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType
from transformers import PreTrainedModel

import lenskit as lk
from lenskit.models.files.gguf import ARCHITECTURES
from lenskit.models.files.gguf_llama import gguf_llama
from lenskit.models.files.gguf_tokenizer import gguf_tokenizer
from lenskit.models.files.load_error import LoadError
from tests.models.tiny import tiny, tiny_tokenizer
from tests.models.tiny_gguf import write_gguf

VOCAB = 300
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module", params=["untied", "tied"])
def llama(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny("llama", vocab=VOCAB, tie_word_embeddings=request.param == "tied")


@pytest.fixture
def one_llama() -> PreTrainedModel:
    return tiny("llama", vocab=VOCAB, layers=1)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


# The weights, through lenskit's own reader of Llamas (which makes the demo model) and through transformers'


def test_the_weights_are_those_that_the_file_was_made_from(llama: PreTrainedModel, tmp_path: Path):
    config, weights = gguf_llama(GGUFReader(write_gguf(tmp_path / "a.gguf", llama, tiny_tokenizer(VOCAB))))
    original = dict(llama.named_parameters())
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[name], original[name]) for name in original)
    read = type(llama)(config).eval()
    read.load_state_dict(weights, strict=False)
    assert torch.equal(logits(read), logits(llama))


def test_load_reads_the_same_model_from_the_file(llama: PreTrainedModel, tmp_path: Path):
    model = lk.load(write_gguf(tmp_path / "tiny-llama.gguf", llama, tiny_tokenizer(VOCAB)))
    assert torch.equal(logits(model.hf_model), logits(llama))
    assert model.name == "tiny-llama"
    assert model.dtype == torch.float32
    assert not model.hf_model.training


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("llama", {}), ("qwen2", {}), ("qwen3", {"head_dim": 128}), ("gpt2", {"n_positions": 1024})],
)
def test_every_architecture_that_is_offered_comes_out_exactly(
    architecture: str, config: dict[str, int], tmp_path: Path
):
    original = tiny(architecture, vocab=VOCAB, **config)
    model = lk.load(write_gguf(tmp_path / "a.gguf", original, tiny_tokenizer(VOCAB)))
    assert torch.equal(logits(model.hf_model), logits(original))
    assert type(model.hf_model) is type(original)


def test_the_architectures_offered_are_those_tested():
    offered = test_every_architecture_that_is_offered_comes_out_exactly.pytestmark[0].args[1]  # pyright: ignore[reportFunctionMemberAccess]
    assert sorted(architecture for architecture, _ in offered) == sorted(ARCHITECTURES)


def test_query_and_key_rows_left_in_gguf_order_would_be_seen(one_llama: PreTrainedModel, tmp_path: Path):
    """That is, the two tests above can fail: the order of rows changes the logits of these models."""
    _, weights = gguf_llama(GGUFReader(write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB))))
    before = logits(one_llama)
    for name in ("q_proj", "k_proj"):
        weight = weights[f"model.layers.0.self_attn.{name}.weight"]
        rows = weight.view(-1, 2, 4, 32).transpose(1, 2).reshape(weight.shape)
        one_llama.load_state_dict({f"model.layers.0.self_attn.{name}.weight": rows}, strict=False)
    assert (logits(one_llama) - before).abs().max() > 0.1


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1])
def test_quantised_weights_are_dequantised_exactly(
    one_llama: PreTrainedModel, tmp_path: Path, kind: GGMLQuantizationType
):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), quantised=kind)
    _, weights = gguf_llama(GGUFReader(path))
    for name, parameter in one_llama.named_parameters():
        # Rows are quantised one by one, so their order does not matter to the values.
        array = parameter.detach().numpy()
        expected = array if array.ndim == 1 else gguf.dequantize(gguf.quantize(array, kind), kind)
        assert np.array_equal(weights[name].numpy(), expected), name
    with torch.no_grad():
        for name, parameter in one_llama.named_parameters():
            parameter.copy_(weights[name])
    assert torch.equal(logits(lk.load(path).hf_model), logits(one_llama))


# What is not read exactly


def test_a_tensor_that_the_model_has_no_place_for_is_refused(one_llama: PreTrainedModel, tmp_path: Path):
    """Llama 3's `rope_freqs` scales the rotary embedding; transformers leaves it out without a word."""
    extra = {"rope_freqs.weight": np.linspace(1, 8, 4, dtype=np.float32)}
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), tensors=extra)
    with pytest.raises(LoadError, match=r"refused.*numbers.*rope_freqs\.weight.*Load this model from"):
        lk.load(path)
    with pytest.raises(LoadError, match=r"no tensor 'rope_freqs\.weight'"):
        gguf_llama(GGUFReader(path))


def test_a_missing_tensor_is_refused(one_llama: PreTrainedModel, tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), without="blk.0.ffn_up.weight")
    with pytest.raises(LoadError, match=r"weights not in the file: .*up_proj"):
        lk.load(path)
    with pytest.raises(LoadError, match=r"up_proj"):
        gguf_llama(GGUFReader(path))


def test_a_setting_that_the_configuration_has_no_place_for_is_refused(one_llama: PreTrainedModel, tmp_path: Path):
    settings: dict[str, float | str] = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), settings=settings)
    with pytest.raises(LoadError, match=r"llama\.rope\.scaling\.factor = 4\.0 is not known"):
        lk.load(path)
    with pytest.raises(LoadError, match=r"llama\.rope\.scaling\.factor"):
        gguf_llama(GGUFReader(path))


def test_a_setting_that_came_out_different_is_refused(tmp_path: Path):
    """transformers reads no head size from a Qwen 3 file and takes 128, the one of the published models."""
    model = tiny("qwen3", vocab=VOCAB, layers=1, head_dim=128)
    path = write_gguf(tmp_path / "a.gguf", model, tiny_tokenizer(VOCAB), settings={"attention.key_length": 16})
    with pytest.raises(LoadError, match=r"qwen3\.attention\.key_length = 16 became 128"):
        lk.load(path)


@pytest.mark.parametrize("architecture", ["gemma2", "rwkv6"])
def test_an_architecture_that_was_not_seen_to_come_out_exactly_is_refused(
    one_llama: PreTrainedModel, tmp_path: Path, architecture: str
):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), architecture=architecture)
    with pytest.raises(LoadError, match=rf"a\.gguf is of the architecture '{architecture}'; gpt2, llama, "):
        lk.load(path)


def test_sizes_that_transformers_reads_wrongly_are_refused(tmp_path: Path):
    """It gives every GPT-2 file 1,024 positions."""
    path = write_gguf(tmp_path / "a.gguf", tiny("gpt2", vocab=VOCAB), tiny_tokenizer(VOCAB))
    with pytest.raises(LoadError, match=r"transformers cannot read a\.gguf"):
        lk.load(path)


@pytest.mark.parametrize("size", [0, 3, 1000, 20_000])
def test_a_truncated_file_is_refused(one_llama: PreTrainedModel, tmp_path: Path, size: int):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(LoadError, match="not a whole GGUF file"):
        lk.load(path)


def test_a_file_that_is_not_there_is_named_with_its_neighbours(one_llama: PreTrainedModel, tmp_path: Path):
    write_gguf(tmp_path / "right.gguf", one_llama, tiny_tokenizer(VOCAB))
    with pytest.raises(LoadError, match=r"no file .*wrong\.gguf.*: right\.gguf\."):
        lk.load(str(tmp_path / "wrong.gguf"))


# The tokenizer

TEXTS = [
    "The capital of France is",
    "two  spaces, three   spaces\n\n\n and\ttabs \n",
    "digits 12345, and  5 after two spaces",
    "isn't IT'S we'll ÉTÉ",
    "é 日本語 🙂 e\N{COMBINING ACUTE ACCENT}",
    "<|end|> is one token",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_is_the_one_that_the_file_was_made_from(one_llama: PreTrainedModel, tmp_path: Path, text: str):
    original = tiny_tokenizer(VOCAB)
    tokenizer = gguf_tokenizer(GGUFReader(write_gguf(tmp_path / "a.gguf", one_llama, original)))
    ids = tokenizer(text)["input_ids"]
    assert ids == original(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_special_tokens_chat_template_and_context_come_with_it(one_llama: PreTrainedModel, tmp_path: Path):
    tokenizer = gguf_tokenizer(GGUFReader(write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB))))
    assert tokenizer.special_tokens_map == {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    assert tokenizer.all_special_ids == [0]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"
    assert tokenizer.model_max_length == 128


@pytest.mark.parametrize("add", [True, False, None])
def test_a_bos_token_is_added_where_the_file_says_so(one_llama: PreTrainedModel, tmp_path: Path, add: bool | None):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), add_bos=add)
    tokenizer = gguf_tokenizer(GGUFReader(path))
    assert (tokenizer("the").input_ids[0] == 0) is (add is True)
    assert 0 not in tokenizer("the", add_special_tokens=False).input_ids


def test_a_user_defined_token_is_matched_whole_and_is_not_special(one_llama: PreTrainedModel, tmp_path: Path):
    types = {"ĠParis": TokenType.NORMAL, "z": TokenType.USER_DEFINED}
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), types=types)
    tokenizer = gguf_tokenizer(GGUFReader(path))
    assert "z" in tokenizer.tokenize("the z")
    assert "z" not in tokenizer.all_special_tokens


def words(path: Path, text: str) -> list[str]:
    """The words into which the file's tokenizer cuts a text before its merges apply, in plain letters."""
    backend = gguf_tokenizer(GGUFReader(path)).backend_tokenizer
    assert backend.pre_tokenizer is not None
    return [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["it", "'s", " 2024", ",", " ", " 5", " IT", "'", "S", "\n", "\n", "x"]),
        ("smollm", ["it", "'s", " ", "2", "0", "2", "4", ",", "  ", "5", " IT", "'", "S", "\n", "\n", "x"]),
        ("qwen2", ["it", "'s", " ", "2", "0", "2", "4", ",", " ", " ", "5", " IT", "'S", "\n\n", "x"]),
        ("llama-bpe", ["it", "'s", " ", "202", "4", ",", " ", " ", "5", " IT", "'S", "\n\n", "x"]),
    ],
)
def test_text_is_cut_into_words_by_the_rule_that_the_file_names(
    one_llama: PreTrainedModel, tmp_path: Path, pre: str, expected: list[str]
):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), pre=pre)
    assert words(path, "it's 2024,  5 IT'S\n\nx") == expected


@pytest.mark.parametrize("pre", ["default", "deepseek-llm", "a-rule-of-next-year"])
def test_a_rule_that_is_not_known_is_refused_with_the_remedy(one_llama: PreTrainedModel, tmp_path: Path, pre: str):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), pre=pre)
    with pytest.raises(LoadError, match=rf"word rule '{pre}'.*does not guess.*tokenizer="):
        lk.load(path)


def test_the_remedy_works(one_llama: PreTrainedModel, tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", one_llama, tiny_tokenizer(VOCAB), pre="a-rule-of-next-year")
    own = tiny_tokenizer(VOCAB)
    model = lk.load(path, own)
    assert model.tokenizer is own
    assert torch.equal(logits(model.hf_model), logits(one_llama))
