"""Files that are cut off, changed or made to do harm give a clear error: nothing runs, hangs, or fills the memory."""

import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lenskit.models.files.load_error import LoadError
from lenskit.transcoders.formats.pickles import Pickled
from lenskit.transcoders.transcoder import Transcoder
from tests.transcoders.made_up import dictionary
from tests.transcoders.twins import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    sae_lens,
    sparsify,
    transcoder_circuits,
)

MUTATIONS = 1000
SITES: dict[str, Any] = {"reads": ("resid_post", 1), "writes": ("resid_post", 1)}

KINDS: dict[str, Callable[[Path], object]] = {
    "own": lambda folder: dictionary("gated").save(folder / "sae"),
    "saelens": lambda folder: sae_lens.write(folder, "topk"),
    "sparsify": lambda folder: sparsify.write(folder, skip=True),
    "gemma scope 1": gemma_scope.write_1,
    "gemma scope 2": lambda folder: gemma_scope.write_2(folder, affine=True),
    "circuit-tracer": lambda folder: circuit_tracer.write_layers(folder, "topk", layers=1),
    "cross-layer": lambda folder: circuit_tracer.write_cross_layer(folder, layers=1),
    "dictionary_learning": lambda folder: dictionary_learning.write(folder, "BatchTopKSAE"),
    "dictionary_learning, old": lambda folder: dictionary_learning.write(folder, old_file=True),
    "transcoder_circuits": lambda folder: transcoder_circuits.write(folder / "tc.pt"),
    "transcoder_circuits, zipped": lambda folder: transcoder_circuits.write(folder / "tc.pkl.gz"),
}

VALUES = [
    -1,
    0,
    1e300,
    10**12,
    2**70,
    None,
    True,
    "",
    "x" * 5000,
    [],
    {},
    [[[]]],
    "../../etc/passwd",
    float("nan"),
    "∞",
]


def mutate(path: Path, rng: random.Random) -> None:
    """Change a file in one of the ways in which files go wrong, or are made to."""
    content = bytearray(path.read_bytes())
    way = rng.randrange(4)
    if path.suffix == ".json" and way < 3:
        settings = json.loads(content)
        inner = settings
        while isinstance(inner, dict) and inner:
            key = rng.choice(list(inner))
            if not isinstance(inner[key], dict) or rng.random() < 0.4:
                inner[key] = rng.choice(VALUES)
                break
            inner = inner[key]
        path.write_text(json.dumps(settings))
    elif path.suffix == ".safetensors" and way == 0:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
        shape = rng.choice([[10**6, 10**6], [2**62, 4], [0], [-1], [], [1] * 400, tensor["shape"][::-1], "F32"])
        tensor[rng.choice(["shape", "data_offsets", "dtype"])] = shape
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    elif way == 1:
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        reach = len(content) if way == 2 else min(len(content), 600)
        for _ in range(rng.choice([1, 1, 3, 20])):
            content[rng.randrange(reach)] = rng.randrange(256)
        path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_give_a_clear_error_or_a_dictionary(kind: str, tmp_path: Path) -> None:
    rng = random.Random(kind)
    KINDS[kind](tmp_path / "whole")
    files = sorted(each.name for each in (tmp_path / "whole").iterdir())
    size = sum(each.stat().st_size for each in (tmp_path / "whole").iterdir())
    at = SITES if kind == "gemma scope 1" else {}
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(-(-MUTATIONS // len(KINDS))):
        shutil.rmtree(tmp_path / "some", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "some")
        mutate(tmp_path / "some" / rng.choice(files), rng)
        try:
            found = Transcoder.load(tmp_path / "some", **at)
        except LoadError as error:
            refused.append(str(error))
        else:
            assert sum(each.nbytes for each in found.parameters()) < 4 * size
    assert len(refused) > 25
    assert all(str(tmp_path) in message for message in refused)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


# Pickles


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, fn: Callable[..., Any], *args: object) -> None:
        self.call = fn, args

    def __reduce__(self) -> Any:
        return self.call


def hostile(marker: Path) -> dict[str, object]:
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "subprocess": Runs(subprocess.call, ["touch", str(marker)]),
        "torch.load": Runs(torch.load, str(marker)),
        "numpy": np.array([Runs(os.system, f"touch {marker}")], dtype=object),
    }


@pytest.mark.parametrize("what", hostile(Path()))
@pytest.mark.parametrize("file", ["ae.pt", "tc.pt", "tc.pkl.gz", "tc.pkl"])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, what: str, file: str) -> None:
    dictionary_learning.write(tmp_path / "a")
    (tmp_path / "a" / "ae.pt").unlink()
    content = {"cfg": hostile(tmp_path / "ran")[what], "state_dict": {"W_enc": hostile(tmp_path / "ran")[what]}}
    path = tmp_path / "a" / file
    if file.endswith(".gz"):
        path.write_bytes(gzip.compress(pickle.dumps(content)))
    elif file.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(LoadError, match=r"was not run|cannot be read"):
        Transcoder.load(tmp_path / "a")
    assert not (tmp_path / "ran").exists()


def test_a_storage_inside_a_pickle_is_no_way_around_the_list(tmp_path: Path) -> None:
    """Tensors in a plain pickle hold bytes that torch would load: they are read by the same rules."""
    inner = pickle.dumps(Runs(os.system, f"touch {tmp_path / 'ran'}"))
    load_from_bytes = torch.storage._load_from_bytes
    (tmp_path / "tc.pkl").write_bytes(pickle.dumps({"cfg": {}, "state_dict": Runs(load_from_bytes, inner)}))
    with pytest.raises(LoadError, match=r"system, which is neither"):
        Transcoder.load(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray of a terabyte
        b"\x80\x02}r\xff\xff\xff\xff.",  # remembered at place four billion
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02)" + b"\x85" * 1_000_000 + b"}N\x86.",  # a million tuples in each other
        b"\x80\x04\x8a\xff" + b"\x01" * 10,
        b"\x80\x02cbuiltins\nobject\n}b.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}}X\x01\x00\x00\x00ax\x01\x00\x00\x00bs\x86b.",
    ],
)
def test_pickles_that_would_fill_the_memory_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tc.pkl").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoadError):
        Transcoder.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def with_record(path: Path, name: str, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive anew with one of its files changed."""
    with zipfile.ZipFile(path) as archive:
        contents = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for each, content in contents.items():
            archive.writestr(each, change(content) if each.endswith(name) else content)


def test_a_tensor_longer_than_its_storage_is_refused(tmp_path: Path) -> None:
    dictionary_learning.write(tmp_path / "a")

    def longer(data: bytes) -> bytes:
        assert data.count(b"K\x28K\x0c\x86") >= 1  # (40, 12)
        return data.replace(b"K\x28K\x0c\x86", b"K\xffK\xff\x86")

    with_record(tmp_path / "a" / "ae.pt", "data.pkl", longer)
    with pytest.raises(LoadError, match=r"announces a tensor \(255, 255\) on a storage of 480"):
        Transcoder.load(tmp_path / "a")


def test_storages_that_are_not_there_or_too_short_are_refused(tmp_path: Path) -> None:
    dictionary_learning.write(tmp_path / "a")
    with_record(tmp_path / "a" / "ae.pt", "data/0", lambda content: content[:4])
    with pytest.raises(LoadError, match=r"12 numbers of torch\.float32, and holds 4 bytes"):
        Transcoder.load(tmp_path / "a")
    with_record(tmp_path / "a" / "ae.pt", "byteorder", lambda _: b"big")
    with pytest.raises(LoadError, match="order of bytes"):
        Transcoder.load(tmp_path / "a")


def test_an_endless_stride_is_no_large_tensor(tmp_path: Path) -> None:
    """A tensor of 10^12 numbers that all lie at one place."""
    torch.save(
        {"encoder.weight": torch.zeros(1).expand(10**6, 10**6), "decoder.weight": torch.zeros(1)}, tmp_path / "a.pt"
    )
    with pytest.raises(LoadError, match="storage of 1 numbers"):
        Pickled(tmp_path / "a.pt").take("encoder.weight")


# Archives


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    gemma_scope.write_1(tmp_path / "a")
    bomb = io.BytesIO()
    np.save(bomb, np.zeros((5000, 5000), np.float32))
    with_record(tmp_path / "a" / "params.npz", "W_enc.npy", lambda _: bomb.getvalue(), zipfile.ZIP_DEFLATED)
    with pytest.raises(LoadError, match="would unpack to"):
        Transcoder.load(tmp_path / "a", **SITES)

    dictionary_learning.write(tmp_path / "b")
    with_record(tmp_path / "b" / "ae.pt", "data/0", lambda _: bytes(50_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(LoadError, match="would unpack to"):
        Transcoder.load(tmp_path / "b")

    transcoder_circuits.write(tmp_path / "c" / "tc.pkl.gz")
    (tmp_path / "c" / "tc.pkl.gz").write_bytes(gzip.compress(b"\x80\x02" + bytes(50_000_000), 1))
    with pytest.raises(LoadError, match="would unpack to"):
        Transcoder.load(tmp_path / "c")


def announcing(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        announcing("(1000000, 1000000)"),
        announcing("(-1, 5)"),
        announcing("(2, 8)", "|O"),
        announcing("(__import__('os').system('true'), 8)"),
        announcing("(" * 50_000),
        announcing("(2, 8)", "V8"),
        b"\x93NUMPY\x09\x00",
    ],
)
def test_arrays_that_announce_what_is_not_there_are_refused(tmp_path: Path, content: bytes) -> None:
    gemma_scope.write_1(tmp_path / "a")
    with_record(tmp_path / "a" / "params.npz", "W_enc.npy", lambda _: content)
    with pytest.raises(LoadError):
        Transcoder.load(tmp_path / "a", **SITES)


def test_object_arrays_are_not_unpickled(tmp_path: Path) -> None:
    harm = np.array([Runs(os.system, f"touch {tmp_path / 'ran'}")], dtype=object)
    named: dict[str, Any] = dict.fromkeys(("W_enc", "W_dec", "b_enc", "b_dec", "threshold"), harm)
    np.savez(tmp_path / "params.npz", **named)
    with pytest.raises(LoadError, match="would need a pickle"):
        Transcoder.load(tmp_path, **SITES)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [2**63, 2**40, 10])
def test_a_header_longer_than_its_file_is_refused(tmp_path: Path, length: int) -> None:
    sae_lens.write(tmp_path / "a")
    path = tmp_path / "a" / "sae_weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(LoadError):
        Transcoder.load(tmp_path / "a")


# Settings


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nfeature_input_hook: *b\n",
        "feature_input_hook: !!python/object/apply:os.system ['true']\n",
        "[" * 100_000,
        "- a\n- b\n",
        "feature_input_hook: [hook_resid_mid]\nfeature_output_hook: {a: b}\n",
        "\x00\x01",
        "model_kind: " + "x" * 5_000_000,
    ],
)
def test_settings_in_yaml_that_are_more_than_settings_are_refused(tmp_path: Path, text: str) -> None:
    circuit_tracer.write_layers(tmp_path / "a", layers=1)
    (tmp_path / "a" / "config.yaml").write_text(text)
    with pytest.raises(LoadError):
        Transcoder.load(tmp_path / "a")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", '{"d_sae": ' + "9" * 5000 + "}", "\x00"])
def test_settings_in_json_that_are_no_settings_are_refused(tmp_path: Path, text: str) -> None:
    sae_lens.write(tmp_path / "a")
    (tmp_path / "a" / "cfg.json").write_text(text)
    with pytest.raises(LoadError, match=r"cfg\.json"):
        Transcoder.load(tmp_path / "a")


# Links and names


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    sparsify.write(tmp_path / "a")
    (tmp_path / "a" / "sae.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (tmp_path / "a" / "sae.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(LoadError, match="outside its folder: it is not followed"):
        Transcoder.load(tmp_path / "a")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    sparsify.write(tmp_path / "a")
    (tmp_path / "a" / "sae.safetensors").unlink()
    os.mkfifo(tmp_path / "a" / "sae.safetensors")
    with pytest.raises(LoadError, match="holds no dictionary"):
        Transcoder.load(tmp_path / "a")
    with pytest.raises(LoadError, match="it is no file"):
        Transcoder.load(tmp_path / "a" / "sae.safetensors")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    with pytest.raises(LoadError, match="holds no dictionary"):
        Transcoder.load_all(tmp_path / "a")


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    gemma_scope.write_1(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a" / "params.npz", "a") as archive:
        archive.writestr("../../out.npy", announcing("(2, 8)"))
    with pytest.raises(LoadError, match="whose meaning is not known"):
        Transcoder.load(tmp_path / "a", **SITES)
    assert not (tmp_path.parent / "out.npy").exists()
