"""`Policy`, as users have it: the model with its builders and readers, layers of files, and learning from denials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from ..errors import PolicySyntaxError
from . import layers, parse
from .model import PolicyModel
from .reader import Where
from .schema import read_fields


class _MadeByReaders(msgspec.StructMeta):
    """Says what makes a policy, to callers of `Policy("compute")`."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        if args:
            raise TypeError(
                f"Policy({', '.join(map(_written, args))[:80]}): a policy is made by name of what it comes from. "
                f"Hint: {_reader_of(args[0])}"
            )
        return super().__call__(**fields)


def _written(given: object) -> str:
    return repr(given) if isinstance(given, str | Path | int) else f"<{type(given).__name__}>"


def _reader_of(given: object) -> str:
    if isinstance(given, Mapping):
        return "Policy.from_dict reads a mapping"
    if isinstance(given, str) and given in parse.PRESETS:
        return f"Policy.preset({given!r})"
    if isinstance(given, str | Path) and Path(given).suffix:
        return f"Policy.load({str(given)[:80]!r})"
    return "Policy.preset('compute') is a shipped policy, Policy.load(path) reads a file"


class Policy(PolicyModel, metaclass=_MadeByReaders, frozen=True, kw_only=True, dict=True, repr_omit_defaults=True):
    """What a guest may do. Every builder returns a new policy; nothing is granted that no rule grants.

    The most specific rule decides; at equal length deny beats allow, whichever was added first.
    """

    @classmethod
    def from_data(cls, data: Any, *, file: str | None = None, lines: Mapping[Where, int] | None = None) -> Self:
        """Return the policy of a file's data. `lines` maps key paths to 1-based lines, for errors."""
        return cls._layered(data, file, lines or {}, ())

    @classmethod
    def _layered(cls, data: Any, file: str | None, lines: Mapping[Where, int], above: tuple[Path, ...]) -> Self:
        """Read a policy with the files below it; `above` are those that extend it, `layers.MAX_LAYERS` at most."""
        if file is not None:
            above = (*above, Path(file).resolve())
        below: list[Policy] = []

        def base_of(name: Any) -> Policy:
            path = layers.base_path(name, file)
            if path is None:
                return cls.preset(name)
            if path.resolve() in above:
                raise PolicySyntaxError(
                    f"extends {name[:200]!r}: it extends this file", hint="name a file that does not"
                )
            if len(above) > layers.MAX_LAYERS:
                raise PolicySyntaxError(f"extends: more than {layers.MAX_LAYERS} files below", hint="join some of them")
            try:
                text = parse.parse_path(path)
            except OSError as error:
                message = f"extends {str(path)[:200]!r}: {error.strerror}"
                raise PolicySyntaxError(message, hint="it is looked for beside this file") from error
            below.append(cls._layered(text[0], str(path), text[1], above))
            return below[0]

        made = cls(**read_fields(data, empty=cls(), preset=base_of, file=file, lines=lines))
        if file is not None and "name" not in data:
            made = made.with_name(_name_of(file) or made.name)
        if below:
            assert file is not None
            layers.require_narrower(below[0], made, file, data, lines)
        return made

    @classmethod
    def learn(cls, events: Any, *, generalise: int = 1, base: Self | None = None) -> Self:
        """Return `base` with grants for what `events` (denials, usually of monitor mode) needed.

        `generalise` is 0 (exactly what was seen) to 3; see `learning.learned`.
        """
        from .learning import learned

        return learned(events, generalise=generalise, base=base or cls.preset("compute").with_name("learned"))


def _name_of(file: str) -> str:
    """Return what events call the policy of a file that states no name; "" where the file's name has nothing for it."""
    return re.sub(r"[^\w.+@ -]", "_", Path(file).stem, flags=re.ASCII).lstrip("_ .+@-")[:63].rstrip()


def default_base() -> Policy:
    """Return the policy on top of which is learned where none is given."""
    return Policy.preset("compute").with_name("learned")
