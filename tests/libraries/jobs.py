"""One small honest job for each library: what a first script with it does, and a result that only a right one gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a guest does with one library, and what it needs beside its preset."""

    #: its name at PyPI
    library: str
    source: str
    #: of the source's last expression
    value: Any
    preset: str = "data"
    #: a policy fragment beside the preset, shown in the table
    grant: dict[str, Any] = field(default_factory=dict)
    #: for `spawn(env=)`, shown in the table
    env: dict[str, str] = field(default_factory=dict)


NUMPY = """
import numpy as np
a = np.random.default_rng(7).normal(size=(60, 60))
np.save("a.npy", a)
bool(np.allclose(np.linalg.inv(a) @ np.load("a.npy"), np.eye(60)))
"""
PANDAS = """
import io
import pandas as pd
text = "day,kind,value\\n2026-01-01,a,1\\n2026-01-02,b,2\\n2026-01-03,a,3"
frame = pd.read_csv(io.StringIO(text), parse_dates=["day"])
frame.to_csv("out.csv")
{kind: int(total) for kind, total in frame.groupby("kind").value.sum().items()}
"""
SCIPY = """
import numpy as np
from scipy import integrate, optimize, sparse, stats
assert abs(integrate.quad(np.sin, 0, np.pi)[0] - 2) < 1e-9
assert abs(stats.norm.cdf(0) - 0.5) < 1e-12
assert sparse.linalg.spsolve(sparse.eye(5, format="csr") * 2, np.ones(5)).sum() == 2.5
round(float(optimize.minimize(lambda x: (x[0] - 3) ** 2, [0.0]).x[0]), 3)
"""
SKLEARN = """
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
x, y = load_iris(return_X_y=True)
bool(cross_val_score(RandomForestClassifier(20, random_state=0), x, y, cv=3).mean() > 0.9)
"""
MATPLOTLIB = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.plot([1, 4, 9])
axes.set_title("squares of 1, 2, 3: $x^2$")
figure.savefig("plot.png")
figure.savefig("plot.svg")
figure.savefig("plot.pdf")
plt.close("all")
[open(name, "rb").read(4) for name in ("plot.png", "plot.pdf")]
"""
PILLOW = """
from PIL import Image, ImageDraw, ImageFont
image = Image.new("RGB", (80, 40), "white")
ImageDraw.Draw(image).text((5, 5), "hi", fill="black", font=ImageFont.load_default())
for name in ("a.png", "a.jpg", "a.webp"):
    image.save(name)
[Image.open(name).size for name in ("a.png", "a.jpg", "a.webp")]
"""
POLARS = """
import polars as pl
frame = pl.DataFrame({"kind": ["a", "b", "a"], "value": [1, 2, 3]})
frame.write_parquet("a.parquet")
pl.scan_parquet("a.parquet").group_by("kind").agg(pl.col("value").sum()).sort("kind").collect().rows()
"""
PYARROW = """
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
pq.write_table(pa.table({"value": list(range(1000))}), "a.parquet")
pc.sum(pq.read_table("a.parquet")["value"]).as_py()
"""
DUCKDB = """
import duckdb
with duckdb.connect("a.duckdb") as base:
    base.execute("create table t as select range as n, n % 3 as kind from range(1000)")
    base.execute("copy t to 't.csv'")
    rows = base.execute("select kind, count(*) from 't.csv' group by kind order by kind").fetchall()
rows
"""
SYMPY = """
import sympy
x = sympy.symbols("x")
str(sympy.integrate(sympy.sin(x) * sympy.exp(x), x)), sympy.solve(x**2 - 2, x)[1].evalf(5).__str__()
"""
NETWORKX = """
import networkx as nx
graph = nx.karate_club_graph()
nx.shortest_path_length(graph, 0, 33), max(nx.pagerank(graph).items(), key=lambda item: item[1])[0]
"""
LXML = """
from lxml import etree, html
tree = etree.fromstring("<a><b n='1'/><b n='2'/></a>")
page = html.fromstring("<p>one<p>two")
tree.xpath("sum(//b/@n)"), [p.text for p in page.iter("p")]
"""
PYDANTIC = """
from datetime import date
from pydantic import BaseModel, ValidationError
class Order(BaseModel):
    number: int
    day: date
order = Order.model_validate_json('{"number": "7", "day": "2026-01-02"}')
try:
    Order(number="x", day="never")
    errors = 0
except ValidationError as error:
    errors = error.error_count()
order.number, order.day.year, errors
"""
HTTP = """
import {module}
answer = {module}.get("http://127.0.0.1:{port}/data.json", timeout=5)
answer.status_code, answer.json()
"""
NUMBA = """
import numpy as np
from numba import njit, prange
@njit
def total(values):
    found = 0.0
    for value in values:
        found += value * value
    return found
@njit(parallel=True)
def squares(values):
    out = np.empty_like(values)
    for n in prange(len(values)):
        out[n] = values[n] ** 2
    return out
float(total(np.arange(10.0))), float(squares(np.arange(10.0)).sum())
"""
JOBLIB = """
import joblib
joblib.dump({"a": [1, 2]}, "a.joblib")
remembered = joblib.Memory("cache", verbose=0).cache(pow)
assert remembered(2, 5) == remembered(2, 5) == 32
squares = joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(n, 2) for n in range(5))
joblib.load("a.joblib"), squares
"""
SEABORN = """
import pandas as pd
import seaborn as sns
frame = pd.DataFrame({"x": range(20), "y": [n % 7 for n in range(20)], "kind": list("ab") * 10})
sns.set_theme()
sns.relplot(frame, x="x", y="y", hue="kind").savefig("plot.png")
sns.histplot(frame, x="y", kde=True).figure.savefig("hist.png")
import matplotlib.pyplot as plt
plt.close("all")
open("hist.png", "rb").read(4)
"""
STATSMODELS = """
import numpy as np
import statsmodels.api as sm
import statsmodels.formula.api as smf
import pandas as pd
x = np.arange(50.0)
frame = pd.DataFrame({"x": x, "y": 3 * x + 1 + np.sin(x)})
fit = smf.ols("y ~ x", frame).fit()
assert "R-squared" in str(fit.summary())
round(float(fit.params["x"]), 1), bool(sm.tsa.ARIMA(frame.y, order=(1, 1, 0)).fit().aic < 1000)
"""
JINJA = """
from jinja2 import DictLoader, Environment
pages = Environment(loader=DictLoader({"a": "{% for n in ns %}{{ n|upper }} {% endfor %}"}))
pages.get_template("a").render(ns=["x", "y"])
"""

ANSWER = (200, {"a": [1, 2]})
JOBS = (
    Job("numpy", NUMPY, True),
    Job("pandas", PANDAS, {"a": 4, "b": 2}),
    Job("scipy", SCIPY, 3.0),
    Job("scikit-learn", SKLEARN, True),
    Job("matplotlib", MATPLOTLIB, [b"\x89PNG", b"%PDF"]),
    Job("pillow", PILLOW, [(80, 40)] * 3),
    Job("polars", POLARS, [("a", 4), ("b", 2)]),
    Job("pyarrow", PYARROW, 499500),
    Job("duckdb", DUCKDB, [(0, 334), (1, 333), (2, 333)]),
    Job("sympy", SYMPY, ("exp(x)*sin(x)/2 - exp(x)*cos(x)/2", "1.4142")),
    Job("networkx", NETWORKX, (2, 33)),
    Job("lxml", LXML, (3.0, ["one", "two"])),
    Job("pydantic", PYDANTIC, (7, 2026, 2)),
    Job("requests", HTTP.replace("{module}", "requests"), ANSWER, "web-client"),
    Job("httpx", HTTP.replace("{module}", "httpx"), ANSWER, "web-client"),
    Job("numba", NUMBA, (285.0, 285.0), grant={"memory": {"jit": True}}),
    Job("joblib", JOBLIB, ({"a": [1, 2]}, [0, 1, 4, 9, 16]), grant={"process": [{"exec": "{python}"}]}),
    Job("seaborn", SEABORN, b"\x89PNG"),
    Job("statsmodels", STATSMODELS, (3.0, True)),
    Job("jinja2", JINJA, "X Y "),
)
