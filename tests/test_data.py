"""Documents become chunks of exactly one length, and nothing of the text is lost or made up on the way."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenskit.data import chunked, cut, documents_in, text_of

EOS = 0


def encode(text: str) -> list[int]:
    """One token for each character."""
    return [ord(each) for each in text]


@given(st.lists(st.text(st.characters(min_codepoint=1), max_size=40), min_size=1), st.integers(2, 17))
def test_chunks_are_the_documents_joined_by_eos_and_cut(documents: list[str], length: int) -> None:
    joined = [token for document in documents for token in (EOS, *encode(document))]
    if len(joined) < length:
        with pytest.raises(ValueError, match="which is not one chunk"):
            chunked(documents, encode, EOS, length)
        return
    chunks = chunked(documents, encode, EOS, length)
    assert chunks.ids.shape == (len(joined) // length, length)
    assert chunks.ids.flatten().tolist() == joined[: len(joined) // length * length]


def test_the_first_token_is_the_eos_and_none_where_there_is_none() -> None:
    assert chunked(["abc"], encode, EOS, 4).ids.tolist() == [[EOS, 97, 98, 99]]
    assert chunked(["abcd"], encode, None, 4).ids.tolist() == [[97, 98, 99, 100]]


@given(st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=5))
def test_nats_per_token_times_the_ratio_are_bits_per_byte(text: str) -> None:
    chunks = chunked([text], encode, EOS, 2)
    assert chunks.bits_per_byte is not None
    nats_of_the_text = 1.7 * len(text)
    assert math.isclose(1.7 * chunks.bits_per_byte, nats_of_the_text / math.log(2) / len(text.encode()))


def test_a_stream_is_read_no_further_than_needed() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "abcde"

    assert len(chunked(endless(), encode, EOS, 4, at_most=3)) == 3
    assert read == 2


def test_ids_are_cut_or_kept_and_what_is_no_ids_is_refused() -> None:
    assert cut(torch.arange(7), 3).ids.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cut(torch.arange(8).view(2, 4), 3).ids.shape == (2, 4)
    assert cut(torch.arange(7), 3).bits_per_byte is None
    with pytest.raises(TypeError, match=r"not \(2,\) of torch.float32"):
        cut(torch.ones(2), 2)
    with pytest.raises(ValueError, match="2 tokens are not one chunk of 3"):
        cut(torch.arange(2), 3)


def test_a_text_file_is_a_document_and_a_jsonl_file_holds_one_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    lines = [json.dumps({"body": "three"}), "", json.dumps({"body": "four"})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    assert list(documents_in([tmp_path / "a.txt", tmp_path / "b.jsonl"], "body")) == ["one\ntwo\n", "three", "four"]
    with pytest.raises(ValueError, match=r"b\.jsonl:1 has no text in 'text': it has 'body'"):
        list(documents_in([tmp_path / "b.jsonl"]))


def test_a_row_of_a_data_set_gives_its_text() -> None:
    assert text_of({"text": "here", "id": 3}) == text_of("here") == "here"
    with pytest.raises(ValueError, match="has no text in 'text': it has int"):
        text_of(3)  # pyright: ignore[reportArgumentType]
