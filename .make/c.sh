#!/bin/bash
# c.sh PYTHON: compile each C file alone, with warnings as errors, and each BPF program where clang is there. All have the
# shape of .clang-format.
set -euo pipefail
cd "$(dirname "$0")/.."
includes=(-I pyisolate/native/src -I bpf "-I$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')")
failed=0
while IFS= read -r file; do
    gcc -std=gnu11 -fsyntax-only -Wall -Wextra -Wconversion -Wshadow -Werror "${includes[@]}" "$file" || failed=1
done < <(find pyisolate/native/src -name '*.c' | sort)
if command -v clang >/dev/null; then
    multiarch=$("$1" -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH") or "")')
    for file in bpf/*.bpf.c; do
        clang -target bpf -O2 -g -fsyntax-only -Wall -Werror -D__TARGET_ARCH_x86 -I bpf "-I/usr/include/$multiarch" "$file" || failed=1
    done
else
    echo "lint: no clang here: the BPF programs were not compiled. Hint: apt-get install clang"
fi
format=("$(dirname "$1")/clang-format" --style=file)
while IFS= read -r file; do
    if ! "${format[@]}" --dry-run --Werror "$file" 2>/dev/null; then
        echo "lint: $file has not the shape of .clang-format. Hint: ${format[0]} -i $file"
        failed=1
    fi
done < <(find pyisolate/native/src bpf -name '*.[ch]' | sort)
exit $failed
