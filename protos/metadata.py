"""Metadata of calls, beside their messages; says how a call is made, never what about."""

from __future__ import annotations

from typing import Final

# "1" on a Generate that was queued on the device: it may come again after days, so its answer is remembered as long as that.
QUEUED: Final = "tandem-queued"
