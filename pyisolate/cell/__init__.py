"""Process isolation: the zygotes that fork cells, the pool that keeps them, the guest in a cell, and the wire to it."""
