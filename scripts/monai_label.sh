#!/usr/bin/env bash
# Serves bundles through MONAI Label, in an environment of its own: .venv-label, or the folder that MEDMAP_LABEL_VENV
# names. Python 3.11; PYTHON names another interpreter than python3. About 4 GB and 5 minutes the first time.
#   bash scripts/monai_label.sh FOLDER --bundle mmformer_pmix --weights FILE    serve it; --help says what else there is
#   bash scripts/monai_label.sh --self_test                                     start the server for real and test it
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
parts="$root/scripts/label_server"
venv="${MEDMAP_LABEL_VENV:-$root/.venv-label}"

wanted="$(cat "$parts/requirements.txt" "$root/pyproject.toml" | cksum) $root"
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "MONAI Label's versions are fixed for Python 3.11; set PYTHON to one, such as PYTHON=python3.11." >&2
        exit 1
    }
    echo "Creating the virtual environment $venv"
    "${PYTHON:-python3}" -m venv "$venv"
fi
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing MONAI Label (the first time this takes some minutes)"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)
    # torch first and with all that it needs, which differs between its builds; the file names all the rest
    "${pip[@]}" "$(grep '^torch==' "$parts/requirements.txt")"
    "${pip[@]}" --no-deps --requirement "$parts/requirements.txt"
    "${pip[@]}" --no-deps --editable "$root"
    # PyTorch without CUDA beside PyPI's torchvision: see that file
    if ! "$venv/bin/python" -c 'import torchvision' 2>/dev/null; then
        shim="torchvision_beside_cpu_torch"
        packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        cp "$parts/$shim.py" "$packages"
        echo "import $shim" > "$packages/$shim.pth"
    fi
    "$venv/bin/python" -c 'import monailabel.app, torchvision'
    echo "$wanted" > "$venv/.installed"
fi

export PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"
if [ "${1:-}" = "--self_test" ]; then
    shift
    cd "$root"
    exec "$venv/bin/python" -m pytest -m slow tests/label_server "$@"
fi
exec "$venv/bin/python" "$root/scripts/serve_label.py" "$@"
