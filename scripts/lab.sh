#!/usr/bin/env bash
# Open JupyterLab on the first notebook. Where there is no display it prints the address to open instead.
set -euo pipefail
cd "$(dirname "$0")/.."

options=(
    # Rather than naming the notebook as an argument: so the address that is printed leads to it too.
    --LabApp.default_url=/lab/tree/notebooks/01_quickstart.ipynb
    # Nothing asks the network: no news, no look for updates.
    --LabApp.news_url=None
    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate
)
if [ "$(id -u)" = 0 ]; then
    options+=(--allow-root)
fi
if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && [ "$(uname)" != Darwin ]; then
    options+=(--no-browser)
fi
exec .venv/bin/jupyter lab "${options[@]}" "$@"
