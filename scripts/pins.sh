#!/usr/bin/env bash
# Write down what is installed in .venv as requirements/dev.txt. Run after a deliberate upgrade whose tests pass.
set -euo pipefail
cd "$(dirname "$0")/.."

{
    echo "# The whole development environment, to the last digit: what \`make test\` and CI run on. Made by \`make pins\`."
    # "+cpu" and the like name a build, not a version: each machine takes the build that suits it.
    .venv/bin/pip freeze --exclude-editable 2>/dev/null | sed 's/+[a-z0-9.]*$//'
} >requirements/dev.txt.new
mv requirements/dev.txt.new requirements/dev.txt
