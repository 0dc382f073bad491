"""Structured logs: one JSON object a line, or plain words, of the same fields; ids, lengths and durations, never content."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import Literal

from protos.tracing import current_trace_id

Value = str | int | float | bool | None


class Event:
    """A message that keeps its fields: ``logger.info(Event("call", method="Generate", ms=12.5))``."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, **fields: Value) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        words = (f"{key}={'-' if value is None else value}" for key, value in self.fields.items())
        return " ".join((self.name, *words))


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: time, level, logger, event, its fields, and the trace it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`. Exceptions are named, never written out: their text may hold content."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        document: dict[str, Value] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        if isinstance(record.msg, Event):
            document |= {"event": record.msg.name, **record.msg.fields}
        else:
            document["event"] = record.getMessage()
        if trace_id := current_trace_id():
            document["trace_id"] = trace_id
        if record.exc_info and record.exc_info[0] is not None:
            document["exception"] = record.exc_info[0].__name__
        return json.dumps(document, ensure_ascii=False)


def set_up_logs(form: Literal["text", "json"]) -> None:
    """Give the program's log its form; for the entry point alone."""
    logging.getLogger("cloud_service").setLevel(logging.INFO)
    if form == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(handlers=[handler], force=True)
