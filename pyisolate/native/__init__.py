"""The only place that sees C: one module per family of system calls, each result checked in `_result`.

- `process`: clone3 into namespaces, pidfds, prctl, capabilities, identity maps
- `landlock`: rights, rulesets, the live probe
- `mount`: mounts by path and by descriptor, entering a root
- `audit`: the C audit hook
- `seccomp`, `notify`: filters and user notification
- `namespaces`: their live probe
- `msgpack`: what a guest's value would take, before it is decoded
- `libbpf`: loading and reading BPF objects (absent where libbpf was at build time)

`_native` is built from the pairs `src/<name>.cdef.h` and `src/<name>.c` by `_build`; see docs/native.md.
"""
