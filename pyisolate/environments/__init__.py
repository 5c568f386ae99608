"""Environments: packages that guests import, in a site of its own for each set of requirements, built once.

`environment` is the public face; `requirements` reads what is asked for, `build` has an installer make it, `cache`
keeps it. What a policy makes of one is in `policy/site.py`.
"""

from __future__ import annotations

from .environment import Environment as Environment
