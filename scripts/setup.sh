#!/usr/bin/env bash
# Make this clone ready to work in: .venv, the front-ends' tools, a browser for the tests, the demo model.
# Safe to run again at any time, also after an interruption: each step is done only when what it reads has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*"; }

# A step leaves a stamp with the hash of its inputs when it is through. No stamp, or another hash: it is done (again).
stamps=.venv/stamps
hash_of() { cat "$@" | cksum | tr -d ' '; }
is_done() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }
mark_done() { mkdir -p "$stamps" && echo "$2" >"$stamps/$1"; }

find_python() {
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo "lenskit needs Python 3.11 or newer, and none is on the path." >&2
    return 1
}

make_venv() {
    .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python)
    say "Making .venv with $python"
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        # Debian keeps venv in a package of its own. virtualenv needs nothing from the system.
        rm -rf .venv
        local tool
        tool=$(mktemp -d)
        "$python" -m pip install -qq --target "$tool" virtualenv
        PYTHONPATH=$tool "$python" -m virtualenv -q .venv
        rm -rf "$tool"
    fi
}

install_python_packages() {
    local pip=(.venv/bin/python -m pip --disable-pip-version-check) inputs
    inputs=$(hash_of pyproject.toml requirements/dev.txt scripts/setup.sh)
    is_done packages "$inputs" && return
    say "Installing torch (the largest part, first)"
    "${pip[@]}" install -qq "$(grep '^torch==' requirements/dev.txt)"
    say "Installing the pinned packages of requirements/dev.txt"
    "${pip[@]}" install -qq -r requirements/dev.txt
    # An optional URL checker of jsonschema that makes every start of Jupyter and pytest five seconds slower.
    "${pip[@]}" uninstall -qq -y rfc3987-syntax 2>/dev/null
    "${pip[@]}" install -qq --no-deps --no-build-isolation -e .
    mark_done packages "$inputs"
}

# JupyterLab asks each new user whether it may fetch news. Nothing here asks the network unasked, nor asks to.
quiet_jupyterlab() {
    local settings=.venv/share/jupyter/lab/settings
    mkdir -p "$settings"
    echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
        >"$settings/overrides.json"
}

install_front_end_tools() {
    if ! command -v npm >/dev/null; then
        echo "No npm here: the front-ends are used as they are committed, and cannot be rebuilt or unit-tested."
        return
    fi
    local inputs
    inputs=$(hash_of widgets/package.json widgets/package-lock.json)
    [ -d widgets/node_modules ] && is_done front "$inputs" && return
    say "Installing the front-ends' tools (npm)"
    (cd widgets && npm ci --silent --no-fund --no-audit)
    mark_done front "$inputs"
}

install_browser() {
    if [ -n "${LENSKIT_CHROMIUM:-}" ]; then return; fi
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null && return
    done
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "No Chromium here: the tests that need a browser will be skipped (sudo apt-get install chromium)."
        return
    fi
    say "Installing Chromium and fonts for the world's scripts (apt)"
    export DEBIAN_FRONTEND=noninteractive
    dpkg --configure -a >/dev/null # what an interrupted run may have left half-way
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends chromium fonts-noto-core fonts-droid-fallback >/dev/null ||
        echo "Chromium could not be installed: the tests that need a browser will be skipped."
}

prepare_demo_model() {
    local cache="${LENSKIT_CACHE:-}:${XDG_CACHE_HOME:-}:${HOME:-}"
    is_done demo "$cache" && return
    say "Preparing the demo model (once: a download of 93 MB, and a conversion)"
    .venv/bin/python -c 'import lenskit; lenskit.load("demo")'
    mark_done demo "$cache"
}

make_venv
install_python_packages
quiet_jupyterlab
install_front_end_tools
install_browser
prepare_demo_model
