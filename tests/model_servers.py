"""Servers that speak OpenAI's protocol, for the backend that calls one: llama.cpp's own, vLLM where it is installed, and a
simulator of vLLM's prompt log-probabilities on a tiny model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM

from partition.text.tokenizer import Tokenizer

START_S = 60.0
CONTEXT_TOKENS = 2048
_LLAMA = """
import sys
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.n_ctx = 8192
parameters.n_parallel = 4
parameters.cpuparams.n_threads = 2
server = xllamacpp.Server(parameters)
sys.stdin.read()
"""


@dataclass
class ModelServer:
    """Where one answers."""

    base_url: str
    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _process(
    command: Sequence[str], port: int, log: Path, start_s: float = START_S
) -> Iterator[ModelServer]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
    server = ModelServer(f"http://127.0.0.1:{port}/v1", process)
    try:
        end_s = time.monotonic() + start_s
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{server.base_url}/models", timeout=2).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > end_s:
                raise AssertionError(f"the model server does not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def llama_server(model: Path, folder: Path) -> Iterator[ModelServer]:
    """llama.cpp's own server, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-c", _LLAMA, str(model), str(port)]
    with _process(command, port, folder / "llama-server.log") as server:
        yield server


@contextlib.contextmanager
def vllm_server(python: str, model: Path, folder: Path) -> Iterator[ModelServer]:
    """vLLM in an environment of its own, whose interpreter is given."""
    port = free_port()
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
    command += ["--dtype", "float32", "--max-model-len", str(CONTEXT_TOKENS), "--enforce-eager"]
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with _process(command, port, folder / "vllm.log", start_s=900) as server:
        yield server


class ScoringServer:
    """Answers ``/v1/completions`` as vLLM does, prompt log-probabilities and token ids included; a tiny model, greedy only."""

    def __init__(self, model: Path) -> None:
        self._tokenizer = Tokenizer.from_folder(model)
        self._module: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.prompts: list[tuple[int, ...]] = []
        self.refuse_with: tuple[int, dict[str, str]] | None = None
        self.first_takes_s = 0.0  # a server that compiles at its first request
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        model = {
            "id": "tiny",
            "object": "model",
            "created": 1,
            "owned_by": "tests",
            "max_model_len": CONTEXT_TOKENS,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def _completions(self, request: Request) -> Response:
        if self.refuse_with is not None:
            code, headers = self.refuse_with
            return JSONResponse({"error": {"message": "no"}}, code, headers)
        first_s, self.first_takes_s = self.first_takes_s, 0.0
        await asyncio.sleep(first_s)
        body = json.loads(await request.body())
        prompts = body["prompt"]
        if not isinstance(prompts[0], list):
            prompts = [prompts]
        self.prompts += [tuple(ids) for ids in prompts]
        head = {"id": "x", "object": "text_completion", "created": 1, "model": "tiny"}
        if body.get("stream"):
            events = self._events(head, prompts[0], body["max_tokens"])
            return StreamingResponse(events, media_type="text/event-stream")
        choices = [
            self._choice(at, ids, body.get("prompt_logprobs")) for at, ids in enumerate(prompts)
        ]
        return JSONResponse({**head, "choices": choices})

    async def _events(
        self, head: dict[str, Any], prompt: list[int], max_tokens: int
    ) -> AsyncIterator[str]:
        ids, stream = list(prompt), self._tokenizer.stream()
        for left in range(max_tokens, 0, -1):
            token = int(self._logits(ids)[-1].argmax())
            ids.append(token)
            reason = "stop" if token in self._tokenizer.end_ids else None
            reason = reason or ("length" if left == 1 else None)
            text = "" if reason == "stop" else stream.add(token)
            choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
            choice["token_ids"] = [] if reason == "stop" else [token]
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            if reason:
                break
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids) - len(prompt)}
        usage["total_tokens"] = len(ids)
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    def _choice(self, at: int, ids: list[int], wants: int | None) -> dict[str, Any]:
        logits = self._logits(ids)
        choice: dict[str, Any] = {
            "index": at,
            "text": "",
            "finish_reason": "length",
            "logprobs": None,
            "token_ids": [int(logits[-1].argmax())],
        }
        if wants is not None:
            rows = logits.log_softmax(-1)
            scored: list[Any] = [None]
            for row, token in zip(rows, ids[1:], strict=False):
                best = int(row.argmax())
                rank = int((row > row[token]).sum()) + 1
                entry = {str(token): {"logprob": float(row[token]), "rank": rank}}
                entry[str(best)] = {"logprob": float(row[best]), "rank": 1}
                scored.append(entry)
            choice["prompt_logprobs"] = scored
        return choice

    def _logits(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self._module(torch.tensor([ids])).logits[0].float()
        return logits


@contextlib.contextmanager
def scoring_server(model: Path) -> Iterator[tuple[ModelServer, ScoringServer]]:
    """The simulator on a port of its own, in a thread."""
    simulator = ScoringServer(model)
    port = free_port()
    config = uvicorn.Config(
        simulator.app, host="127.0.0.1", port=port, log_level="error", ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="scoring-server", daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield ModelServer(f"http://127.0.0.1:{port}/v1"), simulator
    finally:
        server.should_exit = True
        thread.join(timeout=10)
