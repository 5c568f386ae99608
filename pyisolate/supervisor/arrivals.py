"""What comes for sandboxes from outside of their cells: questions and records of the kernel's side and of the proxy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from ..decision import Decision, Verdict
from ..kernel.expected_files import is_of_imports
from ..kernel.observed_files import WatchedFiles, let_through
from ..sandbox.cell_session import CellSession
from ..telemetry.host_events import host_context, record_refusal

if TYPE_CHECKING:
    from ..egress.meter import Carried
    from ..kernel.plan import KernelPlan
    from ..records import Asked, BrokerRecord, KernelRecord
    from ..sandbox.session import Session
    from ..telemetry.recorder import Recorder
    from .policy_cache import PreparedPolicies
    from .registry import Registry

_log = logging.getLogger("pyisolate.supervisor.arrivals")


class Arrivals:
    """Gives each to its sandbox. Called by the threads that bring them, once `begin` was."""

    _plan: KernelPlan
    _tables: PreparedPolicies

    def __init__(self, registry: Registry, recorder: Recorder, *, full: bool) -> None:
        """`full`: events of all that libraries only try, too."""
        self._registry, self._recorder, self._full = registry, recorder, full
        self._watched = WatchedFiles()

    def begin(self, plan: KernelPlan, tables: PreparedPolicies) -> None:
        """Know the enforcers, which are made with this, and the policies' tables."""
        self._plan, self._tables = plan, tables

    def on_asked(self, sandbox_id: str, asked: Asked) -> None:
        """Give a question of the listener's to its sandbox."""
        if (session := self._registry.find(sandbox_id)) is None:
            raise LookupError(f"a question came for the unknown sandbox {sandbox_id}")
        session.waiting.take(asked, self._plan.builder)

    def on_kernel_record(self, record: KernelRecord) -> None:
        """Give an enforcer's record to its sandbox."""
        if (session := self._registry.find(record.sandbox_id)) is None:
            _log.warning("a %s record came for the unknown sandbox %s", record.enforcer, record.sandbox_id)
            self._recorder.lost("unattributed", record.count)
            return
        for one in session.questions.complete(session.waiting.named(record)):
            self._take_record(session, session.waiting.decided(one))

    def _take_record(self, session: Session, record: KernelRecord) -> None:
        if record.verdict is Verdict.WOULD_DENY and record.answer in (None, "would_ask"):
            if (named := let_through(record)) is None:
                return
            record = named
        if record.enforcer == "bpf-lsm" and is_of_imports(record, self._tables.searched_by(session.compiled)):
            return
        records = [record]
        if self._plan.listener_watches_files and isinstance(session, CellSession) and record.hook != "counter":
            searched = self._tables.searched_by(session.compiled)
            own = None if session.workspace is None else session.workspace.holding
            sealed, by_guest = self._plan.usable("root view"), record.pid == session.pid
            records = self._watched.judge(
                record,
                session.compiled,
                searched,
                own,
                sealed=sealed,
                by_guest=by_guest,
                full=self._full,
                left_out=session.prepared.left_out,
            )
            is_named = records[0].enforcer == "landlock" and records[0].verdict is Verdict.DENY
            session.kernel.note_recorded(records[0], named=is_named)
            records += self._watched.judge_shadow(
                record, session.denials.shadow, searched, own, sealed=sealed, by_guest=by_guest, full=self._full
            )
        for one in records:
            # Tables are shared by sandboxes that reloaded a different number of times: the sandbox's own count holds.
            session.denials.kernel(msgspec.structs.replace(one, generation=0))

    def on_carried_egress(self, policy: str, carried: Carried) -> None:
        """Count what the egress proxy has carried for the sandboxes of a policy."""
        metrics = self._recorder.metrics
        metrics.egress_requests.add((policy, "granted"), carried.requests)
        metrics.egress_bytes.add((policy, "sent"), carried.sent_bytes)
        metrics.egress_bytes.add((policy, "received"), carried.received_bytes)

    def on_refused_egress(self, sandbox_id: str, record: BrokerRecord, question: int) -> None:
        """Give a refusal of the egress proxy to its sandbox, or to the host where the sandbox is not known."""
        if (session := self._registry.find(sandbox_id)) is not None:
            if record.verdict is Verdict.DENY:
                self._recorder.metrics.egress_requests.add((session.context.policy, "refused"))
            session.denials.proxied(session.questions.complete_request(record, question))
            return
        decision = Decision(
            verdict=record.verdict,
            capability=record.capability,
            target=record.target,
            code=record.code,
            reason=record.reason,
        )
        record_refusal(decision, host_context(), recorder=self._recorder)
