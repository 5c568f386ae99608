#!/bin/bash
# apt.sh [--optional] WHY PACKAGE...: install the Debian packages that are missing, and say which and why.
# Without root and sudo, or on another distribution, it names them. Then --optional goes on, otherwise it goes on too
# when the build may still work (a compiler and headers can come from elsewhere): the build itself tells.
set -euo pipefail

optional=
if [[ $1 == --optional ]]; then optional=1; shift; fi
why=$1; shift

if ! command -v dpkg-query >/dev/null; then
    [[ -e .cache/told-apt ]] || echo "setup: not a Debian system: to $why, install what Debian calls: $*" >&2
    mkdir -p .cache && touch .cache/told-apt
    exit 0
fi

missing=()
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
for package in "$@"; do
    grep -qx "installed $package" <<<"$installed" || missing+=("$package")
done
(( ${#missing[@]} )) || exit 0

as_root=()
if (( EUID != 0 )); then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    elif command -v sudo >/dev/null && [[ -t 0 ]]; then
        as_root=(sudo)
    else
        echo "setup: to $why, these packages are missing: ${missing[*]}. Hint: no root and no sudo here; ask an administrator for: apt-get install ${missing[*]}" >&2
        exit 0
    fi
fi

echo "setup: to $why, installing: ${missing[*]}"
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >/dev/null
}
# Stale or empty package lists are the usual reason for a first failure.
install "${missing[@]}" 2>/dev/null && exit 0
"${as_root[@]}" apt-get update -qq -o DPkg::Lock::Timeout=300 </dev/null >/dev/null || true
if [[ -z $optional ]]; then
    install "${missing[@]}" && exit 0
    echo "setup: could not install ${missing[*]} (to $why). Hint: see apt-get's message above." >&2
    exit 1
fi
# One package that this release does not have (Ubuntu has no bpftool) must not keep the others away.
for package in "${missing[@]}"; do
    install "$package" 2>/dev/null ||
        echo "setup: could not install $package (to $why); going on without it. Hint: apt-get install $package" >&2
done
