#!/bin/bash
# find_python.sh VERSION: print an interpreter of that version (3.12, say) that can make virtual environments; 1 if none.
set -euo pipefail

shopt -s nullglob
for candidate in "python$1" /usr/bin/"python$1" /usr/local/bin/"python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python3; do
    # A shim of pyenv's is on the PATH for versions that are not selected, too: only running it tells.
    if "$candidate" -c "import ensurepip, sys, venv; sys.exit('{}.{}'.format(*sys.version_info) != '$1')" 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
exit 1
