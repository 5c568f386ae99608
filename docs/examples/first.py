"""A first guest: it computes, then reads one file that the preset `compute` does not grant."""

import statistics

print("mean:", statistics.mean([1, 2, 3, 4]))
try:
    with open("/etc/hostname") as file:
        print("read", len(file.read()) > 0)
except OSError as error:
    print("refused:", error)
