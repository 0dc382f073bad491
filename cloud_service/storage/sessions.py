"""The sessions of VERIFY and SPLIT: who they belong to, which frame comes next, and how long they are kept.

A session is kept under tenant, device and name, so that another's name means nothing. VERIFY holds ids; the engine holds its
KV cache as long as there is room and computes it again when there was not; its ids are saved
(:mod:`cloud_service.storage.saved_sessions`). SPLIT holds hashes of rows; its hidden states are used once and never kept. A
session that is gone altogether is answered NeedPrefill: the device sends again, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cloud_service.identity import Identity
from cloud_service.storage.saved_sessions import SavedSession
from partition.errors import ActivationError
from partition.extend.activations import decode
from partition.extend.frame_messages import Opening
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Work
from partition.extend.model_card import ModelCard
from partition.extend.split import TailSession
from partition.extend.verify import VerifyingSession
from protos.errors import InvalidRequestError, WireError

MAX_ACTIVATION = (
    1e6  # hundreds of times what models have; what is beyond could overflow for others to see
)
ROW_HASH_BYTES = 8
MAX_DRAFT = 64  # more than any device drafts
DEFAULT_FRAME_S = 120.0  # for a frame that names no deadline


CloudSide = VerifyingSession | TailSession
FrameResult = Extended | NeedPrefill | WireError
Floats = npt.NDArray[np.float32]


class FrameRunner(Protocol):
    """Runs the frames of one session."""

    def start(
        self,
        work: Work,
        hidden: Floats | None,
        *,
        deadline_s: float,
        on_done: Callable[[FrameResult], None],
    ) -> None:
        """Begin; ``hidden`` are the rows of a later stage. ``on_done`` is called once, from any thread."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Whose session."""

    identity: Identity
    name: str


class Session:
    """One conversation's positions in the cloud. Event loop only; frames are answered one after the other."""

    def __init__(
        self,
        opening: Opening,
        side: CloudSide,
        runner: FrameRunner,
        *,
        card: ModelCard,
        max_tokens: int,
    ) -> None:
        self.opening = opening
        self.used_s = time.monotonic()
        self._side = side
        self._runner = runner
        self._card = card
        self._max_tokens = max_tokens
        self._turn = asyncio.Lock()

    @property
    def known_len(self) -> int:
        """Positions it holds."""
        side = self._side
        return side.num_positions if isinstance(side, TailSession) else len(side.ids)

    @property
    def is_busy(self) -> bool:
        """Whether a frame is being answered."""
        return self._turn.locked()

    async def answer(self, frame: Extend, *, deadline_s: float) -> Reply:
        """Answer one frame; a repeated one gets the stored reply.

        Raises:
            InvalidRequestError: It contradicts itself or the model.
            WireError: The engine could not.
        """
        hidden = None
        if self.opening.is_split:
            hidden = await asyncio.to_thread(self._read_rows, frame)
        else:
            self._check_ids(frame)
        if frame.base_len + frame.num_positions >= self._max_tokens:
            raise InvalidRequestError("the session is longer than the model's context; start anew")
        async with self._turn:
            self.used_s = time.monotonic()
            decision = self._side.admit(frame)
            if not isinstance(decision, Work):
                return decision
            if frame.deadline_ms:
                deadline_s = min(deadline_s, self.used_s + frame.deadline_ms / 1000)
            return await self._run(decision, hidden, deadline_s)

    def snapshot(self, identity: Identity) -> SavedSession:
        """What is to be saved of it."""
        assert isinstance(self._side, VerifyingSession)
        return SavedSession(identity=identity, opening=self.opening, ids=self._side.ids)

    def close(self) -> None:
        """Give its memory back."""
        self._runner.close()

    async def _run(self, work: Work, hidden: Floats | None, deadline_s: float) -> Reply:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[FrameResult] = loop.create_future()

        def set_result(result: FrameResult) -> None:
            if not done.done():
                done.set_result(result)

        def on_done(result: FrameResult) -> None:
            loop.call_soon_threadsafe(set_result, result)

        self._runner.start(work, hidden, deadline_s=deadline_s, on_done=on_done)
        # Shielded: whoever sends this frame again on a new stream finds its reply.
        result = await asyncio.shield(done)
        if isinstance(result, WireError):
            raise result
        return result

    def _read_rows(self, frame: Extend) -> Floats:
        """Decode the hidden states of a frame.

        Raises:
            InvalidRequestError: They are damaged, not as many as said, or beyond all measure.
        """
        count = frame.num_positions
        if not 0 < count <= self._max_tokens or frame.ids or frame.draft_len:
            raise InvalidRequestError("a frame of this session carries hidden states, and no ids")
        if len(frame.row_hashes) != count or any(
            len(digest) != ROW_HASH_BYTES for digest in frame.row_hashes
        ):
            raise InvalidRequestError("a frame of hidden states carries a hash for each position")
        try:
            rows = decode(frame.activations, width=self._card.hidden_size, max_rows=count)
        except ActivationError as error:
            raise InvalidRequestError(str(error)) from error
        if len(rows) != count or not bool((np.abs(rows) <= MAX_ACTIVATION).all()):
            raise InvalidRequestError("the hidden states are damaged; compute them again")
        return rows

    def _check_ids(self, frame: Extend) -> None:
        num_ids = len(frame.ids)
        if num_ids == 0 or num_ids != frame.num_positions or frame.activations:
            raise InvalidRequestError("a frame of this session carries ids, one a position")
        if frame.draft_len > MAX_DRAFT or frame.draft_len >= num_ids:
            raise InvalidRequestError(
                f"a frame has at most {MAX_DRAFT} drafts, behind at least one committed id"
            )
        if max(frame.ids) >= self._card.vocabulary_size:
            raise InvalidRequestError("a frame holds an id that the model does not know")


class SessionTable:
    """All sessions of one server, the longest unused first. Event loop only."""

    def __init__(self, *, max_sessions: int, max_per_tenant: int, ttl_s: float) -> None:
        self._max_sessions = max_sessions
        self._max_per_tenant = max_per_tenant
        self._ttl_s = ttl_s
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._unsaved: dict[SessionKey, SavedSession | None] = {}  # None: as it is when taken

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, identity: Identity, opening: Opening, make: Callable[[], Session]) -> Session:
        """Find the session that was opened with the same words, or make it; the oldest idle one makes room."""
        key = SessionKey(identity, opening.session)
        session = self._sessions.get(key)
        if session is not None and session.opening == opening:
            self._sessions.move_to_end(key)
            return session
        if session is not None:
            self._drop(key)
        own = [other for other in self._sessions if other.identity.tenant == identity.tenant]
        if len(own) >= self._max_per_tenant:
            self._drop_oldest(own)
        if len(self._sessions) >= self._max_sessions:
            self._drop_oldest(list(self._sessions))
        self._sessions[key] = session = make()
        return session

    def holds(self, identity: Identity, opening: Opening) -> bool:
        """Whether a session was opened here with these words."""
        session = self._sessions.get(SessionKey(identity, opening.session))
        return session is not None and session.opening == opening

    def changed(self, identity: Identity, session: Session) -> None:
        """A frame was answered: the session is to be saved."""
        key = SessionKey(identity, session.opening.session)
        if self._sessions.get(key) is session and not session.opening.is_split:
            self._unsaved[key] = None

    def take_unsaved(self) -> tuple[SavedSession, ...]:
        """Hand over what changed since the last call."""
        taken, self._unsaved = self._unsaved, {}
        return tuple(
            snapshot or self._sessions[key].snapshot(key.identity)
            for key, snapshot in taken.items()
        )

    def purge(self, now_s: float) -> None:
        """Drop what was not used for long."""
        for key, session in tuple(self._sessions.items()):
            if not session.is_busy and now_s - session.used_s > self._ttl_s:
                self._drop(key)

    def close(self) -> None:
        """Drop all."""
        for key in tuple(self._sessions):
            self._drop(key)

    def check_integrity(self) -> None:
        """Assert what must hold between calls."""
        assert len(self._sessions) <= self._max_sessions
        for key, session in self._sessions.items():
            assert key.name == session.opening.session

    def _drop_oldest(self, keys: list[SessionKey]) -> None:
        idle = [key for key in keys if not self._sessions[key].is_busy]
        if keys:
            self._drop((idle or keys)[0])

    def _drop(self, key: SessionKey) -> None:
        session = self._sessions.pop(key)
        if key in self._unsaved and self._unsaved[key] is None:
            self._unsaved[key] = session.snapshot(key.identity)
        session.close()
