"""Body mass of penguins by species: a job as a customer might send it. Usage: report.py DATA.csv RESULT.csv"""

import sys

import pandas

source, target = sys.argv[1:3]
table = pandas.read_csv(source)
known = table.dropna(subset=["body_mass_g"])
summary = known.groupby("species").agg(
    count=("body_mass_g", "size"),
    mass_mean_g=("body_mass_g", "mean"),
    mass_max_g=("body_mass_g", "max"),
    flipper_mean_mm=("flipper_length_mm", "mean"),
)
summary.to_csv(target)
print(f"{len(table)} rows, {len(known)} with a mass")
print(summary.round(1).to_string())
