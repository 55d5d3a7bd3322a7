# Sourced by the scripts beside it: what a fresh Debian machine lacks, and a virtual environment.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # for the scripts that source this file
venv=${FASTIPAM_VENV:-$root/.venv}

say() { printf '\n== %s\n' "$*"; }

# apt_packages NAME...: install those that are missing. Without root: say what is missing.
apt_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        echo "missing Debian packages: ${missing[*]} (install them, or run this as root)" >&2
        return 1
    fi
    say "installing ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# A Python with headers (an interpreter that was not installed by apt brings its own).
python_packages() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || apt_packages python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_packages python3-venv
    python3 -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        apt_packages python3-dev
    command -v cc >/dev/null || apt_packages gcc libc6-dev musl-tools
}

# new_environment DIR: a virtual environment with a pip that knows dependency groups.
new_environment() {
    [[ -x $1/bin/python ]] || python3 -m venv "$1"
    "$1/bin/python" -m pip install -q --disable-pip-version-check 'pip>=25.1'
}

# install_into DIR WHAT...: pip, quiet unless it fails.
install_into() {
    local into=$1
    shift
    "$into/bin/python" -m pip install -q --disable-pip-version-check "$@"
}
