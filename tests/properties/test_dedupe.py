"""The table of request ids against the obvious model, with restarts: each id takes effect once."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cloud_service.identity import Identity
from cloud_service.storage.dedupe import Attempt, Dedupe, RequestKey, Stored
from cloud_service.storage.envelope import Envelope
from cloud_service.storage.state_store import StateStore, open_state
from protos.errors import InProgressError, RequestIdReusedError

IDENTITIES = st.sampled_from([Identity("a", "one"), Identity("a", "two"), Identity("b", "one")])
IDS = st.sampled_from(["id-1", "id-2"])
CONTENTS = st.sampled_from([b"x" * 32, b"y" * 32])
LEASE_S, TTL_S = 10.0, 100.0


class DedupeMachine(RuleBasedStateMachine):
    """Two contents, two ids, three callers, one clock."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1000.0
        self.rows: dict[tuple[Identity, str], dict[str, object]] = {}
        self.attempts: list[Attempt] = []
        self.answers = 0

    @initialize()
    def open(self) -> None:
        self.context = self.open_store()
        self.store: StateStore = self.context.__enter__()
        self.dedupe = Dedupe(self.store, Envelope(b"k" * 32))

    def open_store(self) -> AbstractContextManager[StateStore]:
        return open_state(None, Path(self.folder.name))

    def live(self, place: tuple[Identity, str]) -> dict[str, object] | None:
        row = self.rows.get(place)
        return row if row is not None and float(str(row["expires"])) > self.now else None

    @rule(identity=IDENTITIES, request_id=IDS, content=CONTENTS)
    def begin(self, identity: Identity, request_id: str, content: bytes) -> None:
        key = RequestKey(
            identity=identity,
            request_id=request_id,
            method="Generate",
            payload_sha256=content,
        )
        row = self.live((identity, request_id))
        try:
            result: Attempt | Stored | str = self.store.run_here(
                lambda connection: self.dedupe.begin(
                    connection, key, now=self.now, lease_s=LEASE_S, ttl_s=TTL_S
                )
            )
        except (RequestIdReusedError, InProgressError) as error:
            result = error.reason
        if row is not None and row["content"] != content:
            assert result == "REQUEST_ID_REUSED"
        elif row is not None and row["response"] is not None:
            assert result == Stored(row["response"])  # type: ignore[arg-type]
        elif row is not None and float(str(row["lease"])) > self.now:
            assert result == "IN_PROGRESS"
        else:
            assert isinstance(result, Attempt)
            self.attempts.append(result)
            self.rows[identity, request_id] = {
                "content": content,
                "owner": result.owner,
                "response": None,
                "lease": self.now + LEASE_S,
                "expires": self.now + LEASE_S + TTL_S,
            }

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        place = (attempt.key.identity, attempt.key.request_id)
        self.answers += 1
        response = f"answer {self.answers}".encode()
        row = self.rows.get(place)
        is_ours = row is not None and row["owner"] == attempt.owner
        stored = self.store.run_here(
            lambda connection: self.dedupe.complete(
                connection, attempt, response, expires=self.now + TTL_S
            )
        )
        assert stored == is_ours
        if is_ours:
            self.rows[place] |= {"response": response, "expires": self.now + TTL_S}

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        place = (attempt.key.identity, attempt.key.request_id)
        self.store.run_here(lambda connection: self.dedupe.abandon(connection, attempt))
        row = self.rows.get(place)
        if row is not None and row["owner"] == attempt.owner and row["response"] is None:
            del self.rows[place]

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        place = (attempt.key.identity, attempt.key.request_id)
        until = self.now + LEASE_S
        self.store.run_here(
            lambda connection: self.dedupe.renew(connection, [attempt], until=until)
        )
        row = self.rows.get(place)
        if row is not None and row["owner"] == attempt.owner and row["response"] is None:
            row |= {"lease": until, "expires": max(float(str(row["expires"])), until)}

    @rule(seconds=st.sampled_from([1.0, 11.0, 120.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def purge(self) -> None:
        self.store.run_here(lambda connection: self.dedupe.purge(connection, now=self.now))
        self.rows = {place: row for place, row in self.rows.items() if self.live(place)}

    @rule()
    def restart(self) -> None:
        self.context.__exit__(None, None, None)
        self.open()
        self.store.run_here(self.dedupe.end_leases)
        self.rows = {place: row for place, row in self.rows.items() if row["response"] is not None}

    @invariant()
    def other_rows_are_untouched(self) -> None:
        assert len(self.rows) <= 6

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.context.__exit__(None, None, None)
        self.folder.cleanup()


DedupeMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_dedupe = DedupeMachine.TestCase
