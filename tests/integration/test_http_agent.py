"""An OpenAI client, the HTTP API and a real agent: only the models and the cloud are simulated."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from protos.errors import InvalidRequestError, UnsupportedError, WireError
from tests.http_harness import serving
from tests.simulators import SimulatedCloud
from tests.unit.edge_agent.test_agent import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Any]:
    bench = Bench(tmp_path, SimulatedCloud())
    with bench.agent:
        yield bench


@pytest.fixture
def port(bench: Any) -> Iterator[int]:
    with serving(bench.agent, default_task="chat", metrics=bench.agent.metrics) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(messages=messages, **{"model": "tandem"} | more)


def test_local_and_cloud_routes(client: openai.OpenAI, bench: Any, port: int) -> None:
    local = ask(client, "sure: Smith", model="triage")
    assert local.choices[0].message.content == "normal"
    assert local.model_extra["tandem"]["route"] == "LOCAL"
    assert local.model_extra["tandem"]["sent_bytes"] == 0
    cloud = ask(client, "Smith has a cough")
    assert cloud.choices[0].message.content == "No effusion. Smith is well."
    assert cloud.model_extra["tandem"]["route"] == "CLOUD"
    assert cloud.model_extra["tandem"]["num_replaced"] == {"PERSON": 1}
    assert all("Smith" not in seen.messages[0].text for seen in bench.cloud.received)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        metrics = response.read().decode()
    assert 'tandem_requests_total{route="CLOUD",task="chat"} 1.0' in metrics
    assert "Smith" not in metrics


def test_streams_restored_text(client: openai.OpenAI) -> None:
    chunks = list(ask(client, "Smith has a cough", stream=True))
    pieces = [
        c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content
    ]
    assert len(pieces) > 1
    assert "".join(pieces) == "No effusion. Smith is well."


def test_a_stop_string_may_be_a_name(client: openai.OpenAI) -> None:
    for stream in (False, True):
        found = ask(client, "Smith has a cough", stop="Smith", stream=stream)
        text = (
            "".join(c.choices[0].delta.content or "" for c in found if c.choices)
            if stream
            else found.choices[0].message.content
        )
        assert text == "No effusion. "


def test_the_better_answer_follows(client: openai.OpenAI, bench: Any) -> None:
    bench.cloud.is_reachable = False
    first = ask(client, "Smith has a cough", extra_headers={"x-request-id": "visit-17"})
    assert first.model_extra["tandem"]["route"] == "QUEUED"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.retrieve(first.id)
    assert caught.value.code == "answer_pending"
    bench.cloud.is_reachable = True
    ends_at = time.monotonic() + 10
    while True:
        try:
            late = client.chat.completions.retrieve(first.id)
            break
        except openai.NotFoundError:
            assert time.monotonic() < ends_at
            time.sleep(0.05)
    assert late.choices[0].message.content == "No effusion. Smith is well."
    assert client.chat.completions.retrieve(first.id).id == first.id
    assert client.chat.completions.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(first.id)


def test_refusals_and_errors(client: openai.OpenAI) -> None:
    refused = ask(client, "unsafe Smith").choices[0]
    assert refused.finish_reason == "content_filter"
    assert "Smith" not in refused.message.refusal
    with pytest.raises(openai.BadRequestError):
        ask(client, "   ")


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidRequestError("too many turns"), 400), (UnsupportedError("no such model"), 502)],
)
def test_what_the_cloud_refuses_for_good(
    client: openai.OpenAI, bench: Any, error: WireError, status: int
) -> None:
    bench.cloud.errors = [error]
    with pytest.raises(openai.APIStatusError, match=error.message) as caught:
        ask(client, "Smith has a cough")
    assert caught.value.status_code == status
