# Sourced by the other scripts: a virtual environment in .venv, made once and reused, with this package installed in it.
# PYTHON names the interpreter to make it with (default python3); MEDMAP_VENV another place for it.

venv="${MEDMAP_VENV:-$PWD/.venv}"
pip_output="--disable-pip-version-check"
[ -t 1 ] || pip_output="$pip_output --quiet" # progress bars are for people

# The environment is remade only when it is absent; packages are installed again only when their list has changed.
ensure_environment() {
    local extra="${1:-}" list="$venv/.installed${1:+-$1}" wanted
    wanted="$(cat requirements.txt pyproject.toml | cksum) $PWD"
    if [ ! -x "$venv/bin/python" ]; then
        echo "Creating the virtual environment $venv"
        "${PYTHON:-python3}" -m venv "$venv"
    fi
    if [ "$(cat "$list" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing packages (the first time this takes a few minutes)"
        "$venv/bin/python" -m pip install $pip_output -r requirements.txt
        "$venv/bin/python" -m pip install $pip_output --editable ".${extra:+[$extra]}"
        echo "$wanted" > "$list"
    fi
    export PATH="$venv/bin:$PATH"
    # Threads that wait for one another sleep instead of spinning, which matters where the machine is shared.
    export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
}
