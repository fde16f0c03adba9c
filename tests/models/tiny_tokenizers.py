"""Tiny tokenizers of the kinds that models come with, made on the spot: SentencePiece-like, WordPiece, with ends."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from tests.models.tiny import CORPUS, tiny_tokenizer

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(before: str = "", after: str = "", nfc: bool = False) -> PreTrainedTokenizerFast:
    """`tiny_tokenizer`, with `<|end|>` as BOS: put before or after a text, as asked; and with Unicode composed."""
    tokenizer = tiny_tokenizer(300)
    tokenizer.bos_token = "<|end|>"
    backend = tokenizer.backend_tokenizer
    if nfc:
        backend.normalizer = normalizers.NFC()
    if before or after:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(), special_tokens=[("<|end|>", 0)]
        )
    return tokenizer


def sentencepiece(kind: str) -> PreTrainedTokenizerFast:
    """A BPE with byte fallback that begins with `<s>`, as Llama 2 ("llama"), Mistral ("always") and Gemma ("never").

    The first two read a space before every text: by a normalizer, or by the pre-tokenizer where there is none yet.
    """
    backend = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True))
    if kind == "llama":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        # Only for training: Llama 2 itself has no pre-tokenizer.
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
    replace, strip = decoders.Replace("▁", " "), decoders.Strip(content=" ", left=1, right=0)
    steps = [replace, decoders.ByteFallback(), decoders.Fuse(), *([] if kind == "never" else [strip])]
    backend.decoder = decoders.Sequence(steps)
    specials = [UNK, BOS, EOS, *BYTES]
    backend.train_from_iterator(CORPUS, BpeTrainer(vocab_size=420, show_progress=False, special_tokens=specials))
    return _plain_bytes(backend, bos_token=BOS, eos_token=EOS, unk_token=UNK)


def unigram() -> PreTrainedTokenizerFast:
    """A SentencePiece-like Unigram without byte fallback: what is not in its corpus is unknown."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = UnigramTrainer(vocab_size=120, show_progress=False, special_tokens=[UNK], unk_token=UNK)
    backend.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNK)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind: no capitals, no spaces, `[CLS]` before and `[SEP]` after, and no token called BOS."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    trainer = WordPieceTrainer(vocab_size=120, show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]"])
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def _plain_bytes(backend: Tokenizer, **named: Any) -> PreTrainedTokenizerFast:
    """Begin with BOS; and let the byte tokens be found by byte fallback only, not where `<0x41>` is written."""
    import json

    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    if spec["normalizer"] is not None:
        spec["pre_tokenizer"] = None
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)
