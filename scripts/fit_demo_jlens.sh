#!/usr/bin/env bash
# Fits the demo model's Jacobian lens that comes with lenskit: forty passages of 96 tokens, half of them from five of
# Austen's novels (Persuasion is kept for judging) and half written by the model itself (lk.demo_texts).
#
#     scripts/fit_demo_jlens.sh [FOLDER]      # keeps checkpoints in FOLDER; started again, it goes on from there
#
# About an hour on one core. PASSAGES=60 goes on to more, with the same first forty.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-$(.venv/bin/python -c 'from lenskit.artifacts import cache_dir; print(cache_dir() / "jlens_demo")')}"
mkdir -p "$folder"
.venv/bin/python - "$folder/texts.jsonl" <<'PYTHON'
import json
import sys

import lenskit as lk
from lenskit.artifacts import cache_dir
from scripts import austen

novels = cache_dir() / "texts" / "austen"
if not (novels / "emma.txt").is_file():
    austen.main(novels)
texts = [path.read_text(encoding="utf-8") for path in sorted(novels.glob("*.txt")) if path.stem != "persuasion"]
# As much of the novels as the model has written, cut out of the middle of each at equal distances.
lines = list(lk.demo_texts())
for text in texts:
    lines += [text[at : at + 800] for at in range(len(text) // 20, len(text), len(text) // 12)]
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"text": line}) + "\n" for line in lines)
PYTHON
OMP_NUM_THREADS=1 .venv/bin/python -m lenskit jlens fit demo "$folder/texts.jsonl" \
    --passages "${PASSAGES:-40}" --chunk 96 --products medium --corpus "Austen and lenskit's demo_texts" \
    --folder "$folder" --keep int8 --out lenskit/lenses/demo/smollm2-135m-instruct-jacobian.safetensors
