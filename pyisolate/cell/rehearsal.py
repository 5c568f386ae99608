"""What a cell plays through while it waits, so that hand-out and a first request find their pages its own."""

from __future__ import annotations

import builtins
import os
import resource

from .. import hooks
from ..hooks import seeding
from ..policy.broker import Broker
from ..policy.compiled import CompiledPolicy, FsRight, FsRule
from . import wire
from .confine import Steps, confine_at_handout
from .guest import REHEARSED, Guest
from .source import forget_last_value, show_no_own_lines

#: A specialising interpreter (3.11) takes 8 runs to specialise and some more to settle; a run takes half a millisecond.
_REHEARSALS = 20


class Rehearsal:
    """Made once in the zygote.

    A fault costs 2 to 5 us and a page of the cell's own memory, so it holds the common path and no more: no refusal, no
    traceback.
    """

    def __init__(self) -> None:
        self._rlimits = ((resource.RLIMIT_CORE, 0, 0),)
        self.policy = CompiledPolicy(name="warm", version="0", fs=(FsRule(path="/warm", allow=FsRight.READ),))
        init = wire.Init(
            sandbox="warm",
            policy=self.policy,
            descriptors=(),
            environment=dict(os.environ),
            working_directory="/",
            rlimits=self._rlimits,
        )
        self._init = wire.encode(init)[wire.HEADER.size :]

    def warm_up(self) -> None:
        """Play it in the zygote, until the interpreter has specialised the code and filled its caches (PEP 659).

        What is written there need not be written in each cell: 70 of 660 pages.
        """
        show_no_own_lines()
        for _ in range(_REHEARSALS):
            guest = Guest()
            self._hand_out(guest)
            self._request_once(guest)

    def settle(self, guest: Guest, init: wire.Init) -> None:
        """The same in a policy zygote, of what its cells do between their fork and their first request."""
        for _ in range(_REHEARSALS):
            seeding.renew()
            guest.rehearse_ahead(init)

    def play(self, guest: Guest) -> None:
        """Go through hand-out and one request without leaving a trace.

        Not in a cell of a policy zygote: of a hand-out little is left there, and a request is rehearsed after it.
        """
        if not guest.made_ahead:
            confine_at_handout({}, self._rlimits, "/", Steps(), rehearsal=True)
            self._hand_out(guest)
            self._request_once(guest)

    def _hand_out(self, guest: Guest) -> None:
        init = wire.decode_host(self._init)
        assert isinstance(init, wire.Init)
        assert init.policy is not None
        os.environ.clear()
        os.environ.update(init.environment)
        with hooks.rehearsal(Broker(init.policy), guest.report, init.policy):
            wire.encode(wire.Ready(steps=("warm",)))

    def _request_once(self, guest: Guest) -> None:
        request = wire.decode_host(REHEARSED)
        assert isinstance(request, wire.Request)
        wire.encode(guest.execute(request, {"__builtins__": builtins}, request.filename))
        forget_last_value()
