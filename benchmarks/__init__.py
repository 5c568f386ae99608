"""The budgets, measured: `python -m benchmarks [--only NAME] [--quick] [--json FILE]`.

One module per budget, each a `run(settings)` that returns figures. What a figure is compared with is measured in the
same run, taking turns with it, so that a ratio survives a busy machine where an absolute time does not. Every module
runs in a process of its own: an audit hook, once installed, stays, and memory grown by one must not burden the next.
Nothing here is a test: `make test` times nothing.
"""
