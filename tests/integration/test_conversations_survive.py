"""kill -9 in the middle of fifty conversations: all go on, on the same server started again (SQLite) or on another replica
(PostgreSQL); none loses a turn, says anything else than it would have, or pays twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from cloud_service.storage.envelope import load_master_key
from cloud_service.storage.state_store import OUTCOMES, USAGE_DAYS
from partition.extend.frame_messages import Opening
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule
from partition.text.tokenizer import Tokenizer
from protos.errors import WireError, from_rpc_error
from protos.feedback.v1 import feedback_pb2
from protos.inference.v1 import inference_pb2
from protos.request_id import new_request_id
from tests.cloud_harness import SCANNER, Client, Site, ask, cloud_process
from tests.integration.test_cloud_sessions import (
    FrameStream,
    cloud_text,
    drafting,
    opening,
)
from tests.postgres_server import postgres_server

NUM = 50
BEFORE = 12  # confirmed tokens of each conversation before the kill, at least
RULE = SamplingRule(temperature=1.0, top_k=20, seed=11)


@dataclass
class Conversation:
    """A VERIFY session, a question and a report, as one device has them."""

    number: int
    session: DraftingSession
    question: inference_pb2.GenerateRequest
    report: feedback_pb2.ReportRequest
    answers: list[inference_pb2.Finished] = field(default_factory=list)

    @classmethod
    def begin(cls, number: int, model: Path) -> Conversation:
        outcome = feedback_pb2.Outcome(
            answered_request_id=new_request_id(),
            task="triage",
            route="CLOUD",
            verdict=feedback_pb2.VERDICT_CORRECT,
            answered_unix_ms=1,
        )
        return cls(
            number,
            drafting(model),
            ask(f"Question {number}?", max_output_tokens=20),
            feedback_pb2.ReportRequest(request_id=new_request_id(), outcomes=[outcome]),
        )

    async def talk(self, client: Client, opened: Opening, *, until: int) -> int:
        """Exchange frames until so many tokens are confirmed; returns what the cloud knew at first."""
        async with FrameStream(client, opened) as stream:
            known: int = stream.first.opened.known_len
            while not self.session.is_finished and len(self.session.answer) < until:
                frame = self.session.in_flight or self.session.open_frame(self._drafts())
                self.session.take(await stream.exchange(frame))
        return known

    async def ask_and_report(self, client: Client) -> None:
        events = await client.generate(self.question)
        self.answers.append(events[-1].finished)
        await client.feedback.Report(self.report, timeout=30)

    def _drafts(self) -> list[int]:
        return [self.number % 250] * min(2, self.session.most_drafts)


@contextlib.contextmanager
def connected(site: Site, address: str) -> Iterator[Client]:
    yield Client(grpc.aio.secure_channel(address, site.credentials(SCANNER)))


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'site/state/state.sqlite3'}"
        return
    with postgres_server() as url:
        yield url


async def persistently(work: Any) -> Any:
    """Do as devices do: wait as long as the refusal says, and ask again."""
    end_s = time.monotonic() + 60
    while True:
        try:
            return await work()
        except grpc.aio.AioRpcError as error:
            refusal: WireError = from_rpc_error(error)
            if not refusal.is_transient or time.monotonic() > end_s:
                raise
            await asyncio.sleep(min(1.0, refusal.retry_after_s or 0.2))


async def test_fifty_conversations_survive_kill_9(
    tmp_path: Path, model: Path, state_url: str
) -> None:
    site = Site.make(tmp_path / "site", model)
    load_master_key(site.root / "state/master.key")
    environment = {"TANDEM_CLOUD_STATE__LEASE_S": "2"}
    is_shared = state_url.startswith("postgresql")
    if is_shared:
        environment["TANDEM_CLOUD_STATE__URL"] = state_url
    conversations = [Conversation.begin(number, model) for number in range(NUM)]
    half = NUM // 2
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(cloud_process(site, **environment))
        # The other replica runs already, beside the first; on SQLite there is only one at a time.
        other = stack.enter_context(cloud_process(site, **environment)) if is_shared else None
        with connected(site, first.ready["address"]) as client:
            expected = await cloud_text(client, RULE)
            opened = [await opening(client, f"c{number}", RULE) for number in range(NUM)]
            await asyncio.gather(
                *(
                    one.talk(client, words, until=BEFORE)
                    for one, words in zip(conversations, opened, strict=True)
                )
            )
            await asyncio.gather(*(one.ask_and_report(client) for one in conversations[:half]))
            await asyncio.sleep(0.6)  # what was said until now is saved
            running = [
                asyncio.create_task(work)
                for one, words in zip(conversations, opened, strict=True)
                for work in (
                    one.talk(client, words, until=10_000),
                    one.ask_and_report(client),
                )
            ]
            await asyncio.sleep(0.15)
            first.stop(signal.SIGKILL)
            results = await asyncio.gather(*running, return_exceptions=True)
            assert any(isinstance(result, grpc.aio.AioRpcError) for result in results)
            await client.channel.close()
        if other is None:
            other = stack.enter_context(cloud_process(site, **environment))
        with connected(site, other.ready["address"]) as client:
            tasks = [
                persistently(lambda c=one, w=words: c.talk(client, w, until=10_000))
                for one, words in zip(conversations, opened, strict=True)
            ]
            known = await asyncio.gather(*tasks)
            await asyncio.gather(
                *(persistently(lambda c=one: c.ask_and_report(client)) for one in conversations)
            )
            await client.channel.close()
        other.stop()
    decode = Tokenizer.from_folder(model).decode
    assert Counter(decode(one.session.answer) for one in conversations) == {expected: NUM}
    assert min(known) >= BEFORE  # computed again from the saved ids, not sent again
    for one in conversations:  # a request answered before the kill and after it has one answer
        assert len({answer.SerializeToString() for answer in one.answers}) == 1
    engine = sa.create_engine(state_url)
    with engine.begin() as connection:
        num_outcomes = connection.scalar(sa.select(sa.func.count()).select_from(OUTCOMES))
        billed = connection.scalar(sa.select(sa.func.sum(USAGE_DAYS.c.micro_usd)))
    engine.dispose()
    assert num_outcomes == NUM
    costs = sum(one.answers[-1].usage.cost_micro_usd for one in conversations)
    extra = billed - costs  # of the one question that gave the expected text
    assert 0 < extra < 2 * max(one.answers[-1].usage.cost_micro_usd for one in conversations) + 50
