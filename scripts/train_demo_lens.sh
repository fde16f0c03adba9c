#!/usr/bin/env bash
# Train the tuned lens that comes with lenskit for the demo model, on five novels of Jane Austen; the sixth, Persuasion,
# is left for judging it (python -m bench.tuned). About ten minutes on an idle core; after an interruption, run it again.
# int8 makes 10 MB of 40: each row of a matrix in 127 steps to either side of 0. On Persuasion that costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$(.venv/bin/python -c 'from lenskit.artifacts import cache_dir; print(cache_dir())')
texts=$cache/texts/austen
[ -f "$texts/persuasion.txt" ] || .venv/bin/python scripts/austen.py "$texts"

OMP_NUM_THREADS=1 .venv/bin/python -m lenskit lens train demo \
    "$texts"/{emma,mansfield_park,northanger_abbey,pride_and_prejudice,sense_and_sensibility}.txt \
    --start closed-form --start-tokens 30720 \
    --steps 80 --tokens-per-step 256 --lr 1.5e-3 --warmup 8 --products medium \
    --folder "${1:-$cache/training/demo-lens}" --checkpoint-every 8 \
    --keep int8 --out lenskit/lenses/demo/smollm2-135m-instruct.safetensors
