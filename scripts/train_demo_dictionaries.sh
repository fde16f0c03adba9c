#!/usr/bin/env bash
# Train the transcoders that come with lenskit for the demo model: the MLPs of layers 19 to 24, where it finds its answer,
# on what the model itself writes and on five novels of Jane Austen; Persuasion and lk.demo_texts() are left for judging.
# About a quarter of an hour on an idle core, of which the text takes a third; after an interruption, run it again.
# 3,072 features and int8, each row of a matrix in 127 steps to either side of 0, make 4 MB of each.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$(.venv/bin/python -c 'from lenskit.artifacts import cache_dir; print(cache_dir())')
texts=$cache/texts
folder=${1:-$cache/training/demo-dictionaries}
export OMP_NUM_THREADS=1
[ -f "$texts/austen/persuasion.txt" ] || .venv/bin/python scripts/austen.py "$texts/austen"
[ -f "$texts/demo_dictionaries.jsonl" ] ||
    .venv/bin/python scripts/write_dictionary_texts.py "$texts/austen" "$texts/demo_dictionaries.jsonl"

.venv/bin/python -m lenskit transcoder train demo "$texts/demo_dictionaries.jsonl" \
    --layers 19-24 --features 3072 --k 32 --skip \
    --tokens 49152 --epochs 10 --lr 2.5e-3 --held-out 4 --look-every 1000 \
    --folder "$folder" --cache "$folder/activations" \
    --keep int8 --out lenskit/transcoders/demo
