"""What a tracer says about itself: the outcome of a flush, and the books."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FlushResult", "Stats"]


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What `flush` achieved; the numbers count events since the tracer was made.

    Attributes:
        ok: everything recorded before the call is settled (in local mode without a collector: in
            the journal).
        queued: wait in memory. spooled: wait in the journal. dropped: lost, by reason.
        reason: why not `ok`.
    """

    ok: bool
    delivered: int
    queued: int
    spooled: int
    dropped: dict[str, int]
    reason: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Stats:
    """The books at one moment, in events; sessions and updates are not counted among them.

    recorded + adopted_in == delivered + queued + in_flight + spooled + sum(dropped.values()), with
    a slack of the number of threads that are recording at this moment.

    Attributes:
        retries: attempts made again, those at once over a new connection included.
        ambiguous_resends: requests that were sent and never answered, and whose events were then
            sent again: only a server that knows their `event_id`s stores them once.
        recorded_interrupted: spans that dead processes were in, sent as events of this one; outside
            the sum.
        truncated_values: values that were cut to fit.
        redaction_failures: fields that a marker replaced because masking them failed.
        reentrant_records: what would have been recorded inside our own work, on the thread that
            sends or in a function that masks or describes a value, and therefore was not.
        failures: errors of ours that were kept away from the program.
        flusher_restarts: how often the background thread went on after one of those.
        mode: D (journal on disk) or M (memory), and why.
        last_success: Unix seconds of the last answered request.
    """

    recorded: int
    adopted_in: int
    delivered: int
    queued: int
    in_flight: int
    spooled: int
    dropped: dict[str, int]
    attempts: int
    retries: int
    ambiguous_resends: int
    bytes_sent: int
    recorded_interrupted: int
    truncated_values: int
    redaction_failures: int
    reentrant_records: int
    failures: int
    flusher_restarts: int
    last_error: str | None
    last_success: float | None
    mode: str

    def result(self, reason: str | None, seconds: float) -> FlushResult:
        """Return what a flush achieved that ended with these books, after `seconds`."""
        return FlushResult(
            ok=reason is None,
            delivered=self.delivered,
            queued=self.queued + self.in_flight,
            spooled=self.spooled,
            dropped=self.dropped,
            reason=reason,
            seconds=seconds,
        )
