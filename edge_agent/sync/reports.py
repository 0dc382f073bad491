"""What the device says about itself, kept in the journal until the cloud has it."""

from __future__ import annotations

import logging
from dataclasses import replace

from pydantic import TypeAdapter

from edge_agent.cloud.sync_transport import Reported, SyncTransport
from edge_agent.sync.journal import Journal
from protos.errors import WireError
from protos.request_id import new_request_id

logger = logging.getLogger(__name__)

MAX_WAITING = 100  # each report says all there is, so the oldest may go
_DOCUMENT = TypeAdapter(Reported)


class ReportQueue:
    """Reports in order, at least once; the cloud drops what it has by request id."""

    def __init__(self, journal: Journal, transport: SyncTransport) -> None:
        """Take the journal that keeps them and the way they go."""
        self._journal = journal
        self._transport = transport
        self._last: Reported | None = None

    def add(self, reported: Reported) -> None:
        """Keep a report, unless it says nothing new."""
        news = replace(reported, report_seq=0, free_disk_bytes=0, free_memory_bytes=0)
        if news == self._last:
            return
        self._last = news
        seq = self._journal.next_number("report_seq")
        document = _DOCUMENT.dump_json(replace(reported, report_seq=seq)).decode()
        self._journal.put_report(seq, new_request_id(), document, most=MAX_WAITING)

    def deliver(self) -> int:
        """Send what waits, oldest first, until the network fails; returns how many the cloud took."""
        done = 0
        for seq, request_id, document in self._journal.reports():
            try:
                self._transport.report(request_id, _DOCUMENT.validate_json(document))
            except WireError as error:
                if error.is_transient:
                    return done
                # Said again it would be refused again; the next report says all there is.
                logger.warning("the cloud refused a report: %s", error.reason)
            self._journal.drop_report(seq)
            done += 1
        return done
