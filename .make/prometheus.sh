#!/bin/bash
# Prometheus for the clients tier, without its service: installing Debian's package would start a server on port 9090 on
# a systemd host, so the package is unpacked into .cache/prometheus and only its two programs are used. Needs no root.
set -euo pipefail

command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
target=.cache/prometheus
[[ -x $target/usr/bin/prometheus && -x $target/usr/bin/promtool ]] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "setup: prometheus is missing and this is no Debian system: the clients tier goes without it" >&2
    exit 0
fi

echo "setup: to scrape /metrics in the clients tier, unpacking Debian's prometheus into $target (not installed: no service starts)"
mkdir -p "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt's own sandbox user cannot write into a private directory: 755 keeps its warning away.
chmod 755 "$work"
download() { (cd "$work" && apt-get download -qq prometheus </dev/null); }
if ! download 2>/dev/null; then
    if (( EUID == 0 )); then apt-get update -qq </dev/null || true; fi
    if ! download; then
        echo "setup: could not download prometheus: the clients tier goes without it. Hint: apt-get update" >&2
        exit 0
    fi
fi
dpkg-deb -x "$work"/prometheus_*.deb "$target"
