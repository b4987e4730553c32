#!/usr/bin/env bash
# Installs what the tests need and runs them all: style, types, generated bundles, tests. Further arguments go to pytest.
#   bash scripts/test.sh                 everything that takes seconds
#   bash scripts/test.sh -m slow         what takes minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
ensure_environment dev

echo "ruff check"
ruff check .
echo "ruff format --check"
ruff format --check .
echo "mypy"
mypy
echo "bundles are what their fragments make"
python -W ignore scripts/build_bundles.py --check
echo "docs/targets.md lists what the bundles call"
python scripts/list_targets.py --check
echo "pytest"
# One process per core and one thread in each: the tests are many and small.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python -m pytest --numprocesses "${MEDMAP_TEST_PROCESSES:-auto}" --dist loadfile "$@"
