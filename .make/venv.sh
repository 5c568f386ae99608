#!/bin/bash
# venv.sh PYTHON VENV: make the virtual environment, or bring its packages up to date with pyproject.toml.
set -euo pipefail

python=$1 venv=$2
if ! command -v "$python" >/dev/null; then
    echo "setup: no interpreter at $python. Hint: apt-get install python3, or make PYTHON=/path/to/python3" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: $python is $("$python" -V 2>&1), and 3.11 or newer is needed. Hint: make PYTHON=/path/to/python3.12" >&2
    exit 1
fi
# A venv that was moved, or whose interpreter went away, cannot be repaired by pip.
if [[ -d $venv ]] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
fi
if [[ ! -d $venv ]]; then
    echo "setup: making $venv with $("$python" -V 2>&1)"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "setup: $python cannot make a virtual environment. Hint: apt-get install python3-venv" >&2
        exit 1
    fi
fi
chmod a+rx "$venv"
echo "setup: installing the Python packages that pyproject.toml names"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
# The distribution had another name once, which is another project's: both would own the command and the package.
"$venv/bin/python" -c 'import importlib.metadata as m; m.distribution("pyisolate")' 2>/dev/null && "${pip[@]}" uninstall -y pyisolate
# What `python -m build` left here is found before the installed one, and knows the entry points of then.
rm -rf pyisolate.egg-info pyisolate_kernel.egg-info
"${pip[@]}" install --upgrade 'setuptools>=77' wheel 'cffi>=1.16'
# No build isolation: the extension is built once, against the cffi that will load it.
"${pip[@]}" install --no-build-isolation --editable '.[test,lint]'
