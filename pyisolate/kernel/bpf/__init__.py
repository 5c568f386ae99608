"""BPF: the programs' loader, their maps, records and queries, and the enforcers that use them.

loader     objects from files to the kernel    maps, tables   what programs read      records   what programs report
query      ask the kernel's tables             runtime        what all enforcers of one supervisor share
lsm, cgroup, landlock_counter                  one mechanism each    plan      picks and starts them
"""
