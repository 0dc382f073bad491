"""The HTTP API with the official OpenAI client, a real uvicorn on loopback, and a simulated agent."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType

import openai
import pytest

from edge_agent.agent import Status
from edge_agent.cancellation import Cancellation
from edge_agent.errors import InputError, OutboxFullError, RequestStoppedError
from edge_agent.flow import Answer, Entity, Request, Route, Usage
from edge_agent.http_api.api import HttpSettings
from partition.task import Role, Task
from tests.http_harness import serving
from tests.simulators import CHAT, TRIAGE

SECRET = "Joana Q. Fictitious"


class SimulatedAgent:
    """Answers with a fixed text, word by word; the test says what goes wrong."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.text = "No effusion. The heart is normal."
        self.route = Route.LOCAL
        self.asked: list[Request] = []
        self.error: Exception | None = None
        self.error_after: int | None = None  # pieces
        self.hang = False
        self.endless = False
        self.stopped = threading.Event()
        self.late: dict[str, Answer | None] = {}

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (CHAT, TRIAGE)

    def ask(
        self,
        question: Request | str,
        *,
        on_text: Callable[[str], None] | None = None,
        cancel: Cancellation | None = None,
    ) -> Answer:
        assert isinstance(question, Request) and cancel is not None
        self.asked.append(question)
        if self.error is not None and self.error_after is None:
            raise self.error
        try:
            if self.hang:
                cancel.wait(20)
                raise RequestStoppedError("the caller gave up")
            words = self.text.split(" ")
            num_pieces = 0
            while on_text is not None:
                for index, word in enumerate(words):
                    if num_pieces == self.error_after and self.error is not None:
                        raise self.error
                    on_text(word if index == len(words) - 1 else word + " ")
                    num_pieces += 1
                if not self.endless:
                    break
        except RequestStoppedError:
            self.stopped.set()
            raise
        return self.answer(question.id)

    def answer(self, request_id: str) -> Answer:
        return Answer(
            request_id=request_id,
            text="" if self.route is Route.REFUSED else self.text,
            route=self.route,
            reason="because",
            confidence=0.9,
            model="fingerprint-1",
            usage=Usage(input_tokens=11, output_tokens=7, cached_tokens=3),
            latency_ms=MappingProxyType({"local_model": 5.0, "total": 6.0}),
            sent_bytes=0,
            num_replaced=MappingProxyType({Entity.PERSON: 1}),
        )

    def collect(self, request_id: str, *, keep: bool = False) -> Answer | None:
        if request_id not in self.late:
            raise InputError("no request of this id waits here; ask it again")
        return self.late[request_id]

    def forget(self, request_id: str) -> bool:
        return self.late.pop(request_id, None) is not None

    def status(self) -> Status:
        return Status(
            model="m",
            anonymizer="a",
            cloud="reachable",
            tasks=("assistant", "cxr-triage"),
            certified_tasks=(),
            queued=2,
            dead=0,
        )


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SimulatedAgent, int]]:
    agent = SimulatedAgent()
    with serving(agent, HttpSettings(max_body_bytes=20_000)) as port:
        yield agent, port


@pytest.fixture(autouse=True)
def agent(served: tuple[SimulatedAgent, int]) -> SimulatedAgent:
    agent = served[0]
    agent.reset()
    return agent


@pytest.fixture
def port(served: tuple[SimulatedAgent, int]) -> int:
    return served[1]


@pytest.fixture(scope="module")
def client(served: tuple[SimulatedAgent, int]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{served[1]}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def chat(text: str = "Is it normal?") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def raw(
    port: int,
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    **headers: str,
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    given = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request(method, path, body=body, headers=given)
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def test_answers_whole(client: openai.OpenAI, agent: SimulatedAgent) -> None:
    completion = client.chat.completions.create(model="tandem", messages=chat())  # type: ignore[arg-type]
    assert completion.choices[0].message.content == agent.text
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None and completion.usage.total_tokens == 18
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 3
    assert completion.system_fingerprint == "fingerprint-1"
    extension = completion.model_extra["tandem"]  # type: ignore[index]
    assert extension["route"] == "LOCAL" and extension["reason"] == "because"
    assert extension["confidence"] == 0.9 and extension["num_replaced"] == {"PERSON": 1}
    assert agent.asked[0].task == "assistant"
    assert completion.id == f"chatcmpl-{agent.asked[0].id}"


def test_passes_everything_on(client: openai.OpenAI, agent: SimulatedAgent) -> None:
    client.chat.completions.create(
        model="tandem:cxr-triage",
        messages=[
            {"role": "developer", "content": "Be short."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "c"},
            {"role": "tool", "tool_call_id": "t", "content": "d"},
        ],
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        seed=-1,
        stop=["\n", "END"],
        extra_headers={"x-request-id": "caller-17"},
        extra_body={"tandem": {"language": "pt"}, "nonsense": 1},
    )
    (request,) = agent.asked
    assert [(m.role, m.text) for m in request.messages] == [
        (Role.SYSTEM, "Be short."),
        (Role.USER, "a\nb"),
        (Role.ASSISTANT, "c"),
        (Role.TOOL, "d"),
    ]
    assert (request.id, request.task, request.language) == ("caller-17", "cxr-triage", "pt")
    assert (request.max_output_tokens, request.temperature, request.top_p) == (9, 0.5, 0.25)
    assert request.seed == 2**64 - 1 and request.stop == ("\n", "END")


def test_streams(client: openai.OpenAI, agent: SimulatedAgent) -> None:
    stream = client.chat.completions.create(
        model="assistant",
        messages=chat(),  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == agent.text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert sum(1 for c in chunks if c.choices and c.choices[0].delta.content) == 6
    last = chunks[-2]
    assert last.choices[0].finish_reason == "stop"
    assert last.model_extra["tandem"]["route"] == "LOCAL"  # type: ignore[index]
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 7
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_cuts_at_stop_strings(client: openai.OpenAI, agent: SimulatedAgent, stream: bool) -> None:
    agent.text = f"The heart of {SECRET} is normal. END of it"
    found = client.chat.completions.create(  # type: ignore[call-overload]
        model="tandem", messages=chat(), stop=["normal. END", "of it"], stream=stream
    )
    text = (
        "".join(c.choices[0].delta.content or "" for c in found)
        if stream
        else found.choices[0].message.content
    )
    assert text == f"The heart of {SECRET} is "


def test_tells_of_length(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="tandem", messages=chat(), max_tokens=7)  # type: ignore[arg-type]
    assert found.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_refusal_of_policy(client: openai.OpenAI, agent: SimulatedAgent, stream: bool) -> None:
    agent.route = Route.REFUSED
    agent.text = ""
    found = client.chat.completions.create(model="tandem", messages=chat(), stream=stream)  # type: ignore[call-overload]
    choice = list(found)[-1].choices[0] if stream else found.choices[0]
    assert choice.finish_reason == "content_filter"
    said = choice.delta if stream else choice.message
    assert said.refusal == "because" and not said.content


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tandem", "assistant", "cxr-triage"]
    assert client.models.retrieve("cxr-triage").id == "cxr-triage"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-99")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": SECRET}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 1.0}, "frequency_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": SECRET}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": SECRET, "content": "a"}]}, "messages.0.role"),
        ({"stop": ["a"] * 17}, "stop"),
    ],
)
def test_refuses_in_words_without_input(
    client: openai.OpenAI, agent: SimulatedAgent, change: dict[str, object], param: str
) -> None:
    arguments = {"model": "tandem", "messages": chat(SECRET)} | change
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**arguments)  # type: ignore[call-overload]
    assert caught.value.param is not None and caught.value.param.startswith(param)
    assert SECRET not in str(caught.value.response.content)
    assert not agent.asked


def test_unknown_model_is_not_repeated(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=SECRET, messages=chat())  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"
    assert SECRET not in caught.value.response.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"[" * 10_000, 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"temperature": NaN, "messages": [{"role": "user", "content": "a"}]}', 400),
        (b'{"messages": 7}' + b" " * 30_000, 413),
    ],
)
def test_hostile_bodies(port: int, body: bytes, status: int) -> None:
    found, document = raw(port, body)
    assert found == status
    assert set(document["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


def test_chunked_body_is_limited(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "POST",
        "/v1/chat/completions",
        body=iter([b" " * 10_000] * 3),
        headers={"content-type": "application/json"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "evil.example:8010"}, 403),
        ({"host": "localhost:8010"}, 200),
        ({"host": "[::1]:8010"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"x-request-id": "has space"}, 400),
        ({"idempotency-key": "a" * 129}, 400),
    ],
)
def test_who_may_ask(port: int, headers: dict[str, str], status: int) -> None:
    body = json.dumps({"messages": chat()}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    given = {"content-type": "application/json"} | headers
    connection.request("POST", "/v1/chat/completions", body=body, headers=given)
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("the text is empty; send some"), 400),
        (OutboxFullError("the outbox is full"), 503),
        (RuntimeError(SECRET), 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_agent(
    client: openai.OpenAI,
    agent: SimulatedAgent,
    error: Exception,
    status: int,
    stream: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent.error = error
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="tandem", messages=chat(), stream=stream)  # type: ignore[call-overload]
    assert caught.value.status_code == status
    assert SECRET not in caught.value.response.text and SECRET not in caplog.text


def test_error_in_mid_stream(client: openai.OpenAI, agent: SimulatedAgent) -> None:
    agent.error, agent.error_after = RuntimeError(SECRET), 2
    stream = client.chat.completions.create(model="tandem", messages=chat(), stream=True)  # type: ignore[arg-type]
    got = []
    with pytest.raises(openai.APIError) as caught:
        got.extend(stream)
    assert "".join(c.choices[0].delta.content or "" for c in got) == "No effusion. "
    assert SECRET not in str(caught.value)


def test_hanging_up_cancels(client: openai.OpenAI, agent: SimulatedAgent) -> None:
    agent.hang = True
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(model="tandem", messages=chat())  # type: ignore[arg-type]
    assert agent.stopped.wait(5)


@pytest.mark.parametrize("begun", [False, True])
def test_hanging_up_cancels_a_stream(
    client: openai.OpenAI, agent: SimulatedAgent, begun: bool
) -> None:
    agent.endless, agent.hang = begun, not begun
    if begun:
        stream = client.chat.completions.create(model="tandem", messages=chat(), stream=True)  # type: ignore[arg-type]
        next(iter(stream))
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(  # type: ignore[call-overload]
                model="tandem", messages=chat(), stream=True
            )
    assert agent.stopped.wait(5)


def test_too_many_wait() -> None:
    agent = SimulatedAgent()
    agent.hang = True
    with serving(agent, HttpSettings(max_requests=1, max_waiting=1)) as port:
        body = json.dumps({"messages": chat()}).encode()
        waiting = []
        for expected in (1, 1):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(
                "POST",
                "/v1/chat/completions",
                body=body,
                headers={"content-type": "application/json"},
            )
            waiting.append(connection)
            ends_at = time.monotonic() + 5
            while len(agent.asked) < expected and time.monotonic() < ends_at:
                time.sleep(0.01)
        time.sleep(0.1)  # the second one has no sign of its own: it waits before the agent
        assert raw(port, body)[0] == 429
        for connection in waiting:
            connection.close()
        assert agent.stopped.wait(5)


def test_late_answers(client: openai.OpenAI, agent: SimulatedAgent) -> None:
    agent.late = {"q-1": None, "q-2": agent.answer("q-2")}
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.retrieve("chatcmpl-q-1")
    assert caught.value.code == "answer_pending"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve("chatcmpl-q-3")
    for _ in range(2):
        found = client.chat.completions.retrieve("chatcmpl-q-2")
        assert found.choices[0].message.content == agent.text
    assert client.chat.completions.delete("chatcmpl-q-2").deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve("chatcmpl-q-2")


def test_health_metrics_and_nothing_else(port: int) -> None:
    assert raw(port, method="GET", path="/healthz") == (
        200,
        {"status": "ok", "model": "m", "cloud": "reachable", "queued": 2, "dead": 0},
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("content-type", "").startswith(
        "text/plain"
    )
    assert b"tandem_outbox_dead_total 0.0" in response.read()
    connection.close()
    assert raw(port, method="GET", path="/")[0] == 404
    assert raw(port, method="GET", path="/docs")[0] == 404
    assert raw(port, method="PUT", path="/v1/models")[0] == 405
