"""The only place that sees C: one module per family of system calls, each result checked in `result`.

- `process`: clone3 into namespaces, pidfds, prctl, capabilities, identity maps
- `landlock`: rights, rulesets, the live probe
- `mount`: mounts by path and by descriptor, entering a root
- `audit`: the C audit hook
- `seccomp`, `notify`: filters and user notification
- `namespaces`: their live probe
- `forked`: what a forked child of the host renews (no C, and no import of the package)
- `msgpack`: what a guest's value would take, before it is decoded
- `sources`: whether what was built in place is what the sources say
- `libbpf`: loading and reading BPF objects (absent where libbpf was at build time)
- `bpf_maps`: what `bpf/pyisolate.h` puts in maps, as typed reads and writes
- `threads`: the class of the host's threads, and who starts them (no C)

`_native` is built from the pairs `src/<name>.cdef.h` and `src/<name>.c` by `_build`; see docs/native.md.
"""

from .sources import require_fresh

require_fresh()
