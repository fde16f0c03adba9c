"""The tokenizer that a GGUF file describes.

A GGUF file holds the vocabulary and the merges of a byte-level BPE tokenizer, but only the *name*
(`tokenizer.ggml.pre`) of the rule by which text is cut into words before the merges apply. With the wrong
rule nearly all text still comes out right, and some does not: two spaces before a digit, a run of capitals.
So the rule is taken from a table of names whose meaning is known, and a file with another name is refused.
(transformers' own reader falls back to GPT-2's rule, also for the demo model, whose digits stand alone.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lenskit.models.files.load_error import LoadError

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2_words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _single_digits_then_gpt2_words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2_words()])


def _words(pattern: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    def make() -> pre_tokenizers.PreTokenizer:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    return make


@dataclass(frozen=True)
class Rule:
    """What `tokenizer.ggml.pre` stands for, beyond the vocabulary and the merges."""

    words: Callable[[], pre_tokenizers.PreTokenizer]
    nfc: bool = False  # text is first brought to Unicode's composed form
    whole_words_first: bool = False  # a word that is a token is that token, whatever the merges say
    adds_bos: bool = False  # where the file does not say


RULES = {
    "gpt-2": Rule(_gpt2_words),
    "phi-2": Rule(_gpt2_words),
    "smollm": Rule(_single_digits_then_gpt2_words),
    "starcoder": Rule(_single_digits_then_gpt2_words),
    "qwen2": Rule(_words(QWEN2_WORDS), nfc=True),
    "llama-bpe": Rule(_words(LLAMA3_WORDS), whole_words_first=True, adds_bos=True),
}

REMEDY = "Pass the model's own tokenizer: lenskit.load(file, tokenizer=AutoTokenizer.from_pretrained(...))."


def gguf_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer in a GGUF file: vocabulary, merges, special tokens, chat template.

    Raises `LoadError` where the file does not hold one, or holds one whose word rule is not known here.
    """
    kind, pre = _field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in RULES:
        raise LoadError(
            f"This GGUF file has a tokenizer of kind {kind!r} with the word rule {pre!r}; "
            f"lenskit knows kind 'gpt2' with one of {sorted(RULES)}, and does not guess. {REMEDY}"
        )
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    rule = RULES[pre]
    backend = _byte_level_bpe(tokens, _field(reader, "tokenizer.ggml.merges"), rule)
    _add_special_tokens(backend, tokens, _field(reader, "tokenizer.ggml.token_type"))
    if backend.get_vocab_size() != len(tokens):
        raise LoadError(f"This GGUF file lists {len(tokens) - backend.get_vocab_size()} tokens twice. {REMEDY}")

    named = {name: tokens[index] for name, index in _special_ids(reader).items()}
    adds_bos = _field(reader, "tokenizer.ggml.add_bos_token", default=rule.adds_bos)
    adds_eos = _field(reader, "tokenizer.ggml.add_eos_token", default=False)
    ends = named.get("bos_token") if adds_bos else None, named.get("eos_token") if adds_eos else None
    _add_ends(backend, *ends)
    # Cleaning up would turn " ," into ",": then the text of two tokens is not the two texts joined.
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = _field(reader, "tokenizer.chat_template", default=None)
    tokenizer.model_max_length = _field(reader, f"{_field(reader, 'general.architecture')}.context_length")
    return tokenizer


def _byte_level_bpe(tokens: list[str], merges: list[str], rule: Rule) -> Tokenizer:
    backend = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[_pair(merge) for merge in merges],
            ignore_merges=rule.whole_words_first,
        )
    )
    if rule.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = rule.words()
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _add_special_tokens(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Tokens matched whole in the text: control tokens such as `<|im_end|>`, and the user-defined ones."""
    for token, kind in zip(tokens, types, strict=True):
        if kind == TokenType.CONTROL:
            backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == TokenType.USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])


def _special_ids(reader: GGUFReader) -> dict[str, int]:
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: _field(reader, f"tokenizer.ggml.{key}_token_id", default=None) for name, key in keys.items()}
    return {name: index for name, index in ids.items() if index is not None}


def _add_ends(backend: Tokenizer, bos: str | None, eos: str | None) -> None:
    ends = [token for token in (bos, eos) if token is not None]
    if ends:
        backend.post_processor = processors.TemplateProcessing(
            single=[*([bos] if bos else []), "$A", *([eos] if eos else [])],
            special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(ends)],
        )


_REQUIRED = object()


def _field(reader: GGUFReader, name: str, default: Any = _REQUIRED) -> Any:
    field = reader.get_field(name)
    if field is not None:
        return field.contents()
    if default is _REQUIRED:
        raise LoadError(f"This GGUF file has no {name}, so its tokenizer cannot be built. {REMEDY}")
    return default
