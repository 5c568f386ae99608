"""seccomp: the filter of a cell and the listener that decides the calls which the filter notifies.

filter     one filter a kind of cell           syscalls       every system call and the capability it needs
listener   Python's side of the C listener     records        its ring, as `KernelRecord`s
probe      proof that notification works here
"""
