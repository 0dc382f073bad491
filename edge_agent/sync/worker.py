"""Synchronises while the agent serves: one thread asks, another listens for hints, and neither delays an answer."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from edge_agent.errors import EdgeError
from edge_agent.sync.assembly import open_client, open_transport
from edge_agent.sync.client import CycleResult
from edge_agent.sync.running import Stay, begin
from partition.errors import PartitionError
from protos.errors import WireError

if TYPE_CHECKING:
    from edge_agent.cloud.sync_transport import SyncTransport
    from edge_agent.config import EdgeConfig, SyncConfig
    from edge_agent.sync.client import SyncClient

logger = logging.getLogger(__name__)

TICK_S = 10.0  # how often a trial's time and answers are counted
RETRY_HINTS_S = 60.0


class Switchable(Protocol):
    """What answers requests and can take over another release."""

    @property
    def num_answers(self) -> int:
        """Answers so far."""
        ...

    @property
    def route_shares(self) -> tuple[tuple[str, float], ...]:
        """The share of each route in them."""
        ...

    def switch_to(self, config: EdgeConfig) -> None:
        """Load what the configuration names and answer with it from now on.

        Raises:
            PartitionError: It cannot be loaded; what answers goes on.
        """
        ...


class SyncWorker:
    """Follows the channel of an agent from :meth:`start` to :meth:`close`."""

    def __init__(
        self,
        config: EdgeConfig,
        agent: Switchable,
        *,
        stay: Stay,
        tick_s: float = TICK_S,
        jitter_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the device's own configuration, without any release laid over it.

        Args:
            config: As the file says.
            agent: What answers.
            stay: Its time with the release it answers with now.
            tick_s: How often a trial is looked at.
            jitter_s: The longest wait after a hint; None: as configured.
            clock: Seconds.
        """
        self._config = config
        self._agent = agent
        stay.is_counted = True
        self._running = stay.boot.release
        self._tick_s = tick_s
        self._jitter_s = config.sync.hint_jitter_s if jitter_s is None else jitter_s
        self._clock = clock
        self._stop = threading.Event()
        self._hinted = threading.Event()
        self._version = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin, in threads of its own."""
        for work in (self._work, self._listen):
            thread = threading.Thread(target=work, name=f"tandem-sync{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End; a cycle under way ends at its next part, and goes on at the next start."""
        self._stop.set()
        self._hinted.set()
        self._threads[0].join(timeout=5.0)

    def _work(self) -> None:
        try:
            with open_client(self._config) as (client, _):
                self._follow(client)
        except (EdgeError, PartitionError) as error:
            logger.warning("releases are not followed: %s", error)

    def _follow(self, client: SyncClient) -> None:
        client.route_shares = lambda: self._agent.route_shares
        due = self._clock() + random.uniform(0.0, min(self._jitter_s, self._config.sync.poll_s))  # noqa: S311
        seen, answers = self._clock(), self._agent.num_answers
        while not self._stop.is_set():
            now, count = self._clock(), self._agent.num_answers
            try:
                client.observe(seconds=now - seen, answers=count - answers)
                if now >= due and may_fetch(self._config.sync, datetime.now().astimezone()):
                    due = now + self._config.sync.poll_s * random.uniform(0.9, 1.1)  # noqa: S311
                    result: CycleResult = client.run_cycle()
                    logger.info("sync: runs %s, wants %s", result.running, result.wanted)
                if client.store.current != self._running:
                    self._take_over(client)
            except EdgeError as error:
                logger.warning("sync: %s", error)
            seen, answers = now, count
            left = due - self._clock()
            if self._hinted.wait(min(self._tick_s, left) if left > 0 else self._tick_s):
                self._hinted.clear()
                due = min(due, self._clock() + random.uniform(0.0, self._jitter_s))  # noqa: S311

    def _take_over(self, client: SyncClient) -> None:
        """Answer with what the journal says; a release that cannot be loaded goes back at once."""
        config, boot = begin(self._config)
        try:
            self._agent.switch_to(config)
        except (EdgeError, PartitionError) as error:
            logger.warning("release %s cannot be loaded: %s", boot.release, error)
            if boot.release is not None and boot.release != self._running:
                client.roll_back("crash")
            return
        self._running = boot.release
        logger.info("answers come from release %s now", boot.release or "factory")

    def _listen(self) -> None:
        try:
            transport = open_transport(self._config)
        except EdgeError:
            return  # the other thread says why
        try:
            self._take_hints(transport)
        finally:
            transport.close()

    def _take_hints(self, transport: SyncTransport) -> None:
        while not self._stop.is_set():
            try:
                for version in transport.watch_desired(self._config.sync.channel, self._version):
                    if self._stop.is_set():
                        return
                    if version > self._version:
                        self._version = version
                        self._hinted.set()
            except WireError as error:
                logger.debug("hints: %s", error.reason)
            self._stop.wait(RETRY_HINTS_S * random.uniform(0.5, 1.5))  # noqa: S311


def may_fetch(settings: SyncConfig, local: datetime) -> bool:
    """Tell whether something may be fetched now without being asked for."""
    if settings.metered:
        return False
    if not settings.quiet_hours:
        return True
    start, end = settings.quiet_hours.split("-")
    now = local.strftime("%H:%M")
    is_quiet = start <= now < end if start <= end else now >= start or now < end
    return not is_quiet
