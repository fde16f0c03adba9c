#!/usr/bin/env bash
# The front-ends: types, unit tests. Without npm they are skipped with a word; in CI (CI=true) that is a failure.
set -euo pipefail
cd "$(dirname "$0")/../widgets"

if ! command -v npm >/dev/null; then
    echo "SKIPPED tsc and vitest: no npm here"
    [ "${CI:-}" != true ]
    exit
fi
npm run --silent check
npm run --silent test
