# Sourced by the scripts beside it: their common options, what a fresh Debian machine lacks, and a
# virtual environment.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
wheel=
install=1
# shellcheck disable=SC2034  # for the scripts that source this file
rest=()

say() { printf '\n== %s\n' "$*"; }

# take_options ARGUMENT...: --venv DIR, --wheel FILE and --no-install are the scripts' own; the others are left in rest.
take_options() {
    while (($#)); do
        case $1 in
        --venv | --wheel)
            (($# > 1)) || { echo "$1 needs a value" >&2; exit 2; }
            [[ $1 == --venv ]] && venv=$(realpath -m "$2") || wheel=$(realpath -e "$2")
            shift
            ;;
        --no-install) install= ;;
        *) rest+=("$1") ;;
        esac
        shift
    done
}
