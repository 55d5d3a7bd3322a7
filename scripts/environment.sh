# Sourced by the scripts beside it: their common options, what a fresh Debian machine lacks, a virtual
# environment, and the wheel.
# shellcheck shell=bash disable=SC2034  # the scripts use the variables

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
interpreter=python3
wheel=
install=1
rest=()

say() { printf '\n== %s\n' "$*"; }

# usage: the comment at the top of the script.
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; }

# take_options ARGUMENT...: take --venv DIR, --python PROGRAM, --wheel FILE and --no-install; leave the others in rest.
# --help prints the comment at the top of the script, and ends it.
take_options() {
    while (($#)); do
        case $1 in
        -h | --help) usage && exit ;;
        --no-install) install= ;;
        --venv) venv=$(realpath -m "${2:?--venv wants a directory}") && shift ;;
        --python)
            interpreter=${2:?--python wants an interpreter, as in --python python3.13} && shift
            command -v "$interpreter" >/dev/null || { echo "$interpreter is not in PATH" >&2; exit 2; }
            venv=$root/.venv-${interpreter##*/} # a --venv behind it is another one
            ;;
        --wheel) wheel=$(realpath -e "${2:?--wheel wants a file}") && shift ;;
        *) rest+=("$1") ;;
        esac
        shift
    done
}

# python_needs: the Debian packages that are missing for a Python with headers, and for the compilers. (An
# interpreter that was not installed by apt brings its own headers.)
python_needs() {
    "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || echo python3
    "$interpreter" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    "$interpreter" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null ||
        echo python3-dev
    command -v cc >/dev/null || printf '%s\n' gcc libc6-dev musl-tools
}

# missing_packages NAME...: those that are not installed, one a line.
missing_packages() {
    local name
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || echo "$name"
    done
}

# apt_install NAME...: install them. Without root: say that they are missing.
apt_install() {
    (($#)) || return 0
    if ((EUID)); then
        echo "missing Debian packages: $* (install them, or run this as root)" >&2
        return 1
    fi
    say "installing $*"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# waiting WHAT USUALLY COMMAND...: run it, and say what is being done, how long that usually takes, and how long it took.
# On a terminal the seconds are counted. What it prints is shown only when it fails.
waiting() ( # a shell of its own: its trap leaves the caller's alone
    what=$1 usually=$2 ticker='' began=$SECONDS status=0
    shift 2
    log=$(mktemp)
    trap 'rm -f "$log"; [[ ! $ticker ]] || kill "$ticker" 2>/dev/null || true' EXIT
    # Without these, bash goes on when the command ends by itself after a Ctrl-C, as pip does.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [[ -t 1 ]]; then
        while kill -0 $$ 2>/dev/null; do
            printf '\r  %s (usually %s): %d s ' "$what" "$usually" $((SECONDS - began))
            sleep 1
        done &
        ticker=$!
    else
        printf '  %s (usually %s) … ' "$what" "$usually"
    fi
    "$@" >"$log" 2>&1 || status=$?
    if [[ $ticker ]]; then
        kill "$ticker" 2>/dev/null || true
        wait "$ticker" 2>/dev/null || true
        ticker=
        printf '\r\033[K  %s: ' "$what"
    fi
    printf '%d s\n' $((SECONDS - began))
    ((status == 0)) || cat "$log" >&2
    exit "$status"
)

# missing_requirements GROUP...: what the dependency groups ask for and the virtual environment lacks.
missing_requirements() {
    if [[ -x $venv/bin/python ]]; then
        "$venv/bin/python" "$root/scripts/missing.py" "$@"
    else
        printf 'the group %s\n' "$@"
    fi
}

# is_environment: the virtual environment is whole. One whose making was interrupted has no pip that starts.
is_environment() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

# new_environment: a virtual environment with a pip that knows dependency groups. One that is not whole gets what it
# lacks; if that is not enough, it is made anew.
new_environment() {
    is_environment || "$interpreter" -m venv "$venv" || return
    is_environment || "$interpreter" -m venv --clear "$venv" || return
    "$venv/bin/python" -c 'import pip; exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))' ||
        pip_install 'pip>=25.1'
}

# pip_install WHAT...: pip, quiet unless it fails.
pip_install() { "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"; }

# install_groups GROUP...: their requirements, unless all are met.
install_groups() {
    [[ $(missing_requirements "$@") ]] || return 0
    local group options=()
    for group in "$@"; do options+=(--group "$root/pyproject.toml:$group"); done
    pip_install "${options[@]}"
}

# commit_time: when the commit was made, in seconds: the time of all files in a wheel, so that two builds are the same.
commit_time() { git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1000000000; }

# build_wheel: an sdist, and the wheel from it, both into dist/. Needs the group wheel.
build_wheel() {
    rm -rf "$root/dist"
    SOURCE_DATE_EPOCH=$(commit_time) \
    "$venv/bin/python" -m build --outdir "$root/dist" "$root" >"$root/build.log" 2>&1 ||
        { cat "$root/build.log"; return 1; }
}
