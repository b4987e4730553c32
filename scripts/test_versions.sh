#!/usr/bin/env bash
# Runs the tests with the oldest supported packages, or with the newest that there are, each in an environment of its own.
#   bash scripts/test_versions.sh oldest                    the lower bounds of pyproject.toml, on Python 3.10
#   bash scripts/test_versions.sh newest tests/networks     whatever is released today; further arguments go to pytest
# PYTHON names the interpreter (default: python3.10 for the oldest, python3 for the newest).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

which="${1:-}"
venv="${MEDMAP_VENV:-$PWD/.venv-$which}"
tools=(pytest pytest-xdist jsonschema scikit-learn surface-distance-based-measures==0.1 requests)
bounds="$(mktemp)"
trap 'rm -f "$bounds"' EXIT
case "$which" in
    oldest)
        python="${PYTHON:-python3.10}"
        # "monai>=1.4" becomes monai==1.4
        sed -n 's/^    "\([A-Za-z-]*\)>=\([0-9.]*\)",$/\1==\2/p' pyproject.toml > "$bounds"
        ;;
    newest)
        python="${PYTHON:-python3}"
        ;;
    *)
        echo "usage: bash scripts/test_versions.sh oldest|newest [arguments of pytest]" >&2
        exit 2
        ;;
esac
shift

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade --constraint "$bounds" --editable . "${tools[@]}"
"$venv/bin/python" -m pip list
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$venv/bin/python" -m pytest --numprocesses "${MEDMAP_TEST_PROCESSES:-auto}" --dist loadfile "$@"
