"""`make run`: the whole system on this machine, on real weights, and what went where.

Fetches the models, makes development certificates, starts a cloud service behind a wiretap, answers the sample requests
with an agent, shows what the cloud received, stops the cloud for one request, and checks that no identifier of the samples
was among the captured bytes. Ends with 0 when everything held, else with 1.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom.data
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge_agent import Answer, EdgeAgent, Request, Route
from edge_agent.errors import EdgeError
from edge_agent.jsonl import parse_line
from partition.errors import PartitionError
from partition.store.model_store import ModelStore
from protos.errors import WireError
from samples.wiretap import Capture, Pki, Wiretap

HERE = Path(__file__).parent
EDGE_MODEL = "smollm2-135m-instruct"
CLOUD_MODEL = "qwen2.5-coder-0.5b-instruct"
TENANT, DEVICE = "demo-hospital", "scanner-1"
START_S = 240.0  # a cold start reads and unpacks the large model
DELIVERY_S = 120.0
AT_ONCE = 4  # requests; the cloud works on them in one batch
PYDICOM = "pydicom:"  # prefix of a file that pydicom ships

console = Console(width=160 if not sys.stdout.isatty() else None)


def main() -> int:
    """Run the demonstration; return the exit code."""
    started = time.monotonic()
    folder = Path(os.environ.get("TANDEM_DEMO_FOLDER", ".demo"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    console.rule("models")
    store = ModelStore()
    for name in (EDGE_MODEL, CLOUD_MODEL):
        console.print(f"{name}: {store.get(name)}")

    console.rule("cloud service")
    cloud = CloudProcess(folder)
    requests = read_requests(HERE / "requests.jsonl", folder)
    identifiers = json.loads((HERE / "identifiers.json").read_text(encoding="utf-8"))
    with cloud.running() as ready_s, Wiretap(cloud.address, cloud.pki) as wiretap:
        console.print(f"{CLOUD_MODEL} on {cloud.address}, mutual TLS, ready after {ready_s:.0f} s")
        config = write_config(folder, wiretap.target, cloud.pki)
        with EdgeAgent.from_config(config) as agent:
            console.rule("requests")
            seen = answer_all(agent, requests)
            console.rule("what the cloud received for one of them")
            show_received(seen, requests, wiretap.captures)
            console.rule("one request while the cloud is down")
            is_delivered = show_outage(agent, cloud, seen, requests)
        captures = wiretap.captures
    console.rule("what crossed the wire")
    leaked = leaks(captures, identifiers)
    num_bytes = sum(len(capture.data) for capture in captures)
    num_identifiers = sum(map(len, identifiers.values()))
    console.print(
        f"{len(captures)} messages, {num_bytes} bytes captured behind TLS; "
        f"{len(leaked)} of {num_identifiers} sample identifiers found in them"
    )
    for where in leaked:
        console.print(f"[red]leaked: {where}")
    (folder / "capture.jsonl").write_text(
        "".join(
            json.dumps({"method": item.method, "base64": base64.b64encode(item.data).decode()})
            + "\n"
            for item in captures
        )
    )
    console.print(
        f"done in {time.monotonic() - started:.0f} s; the capture is {folder / 'capture.jsonl'}"
    )
    return 0 if is_delivered and not leaked else 1


@dataclass(frozen=True, slots=True)
class Seen:
    """One request and its answer."""

    name: str
    answer: Answer


class CloudProcess:
    """`cloud-service` as a process of its own, on one port of loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pki_folder = folder / "pki"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("init", str(self._pki_folder), "--tenant", TENANT, "--device", DEVICE)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"localhost:{free.getsockname()[1]}"

    @property
    def pki(self) -> Pki:
        """The files that `init` wrote."""
        device = self._pki_folder / "devices" / f"{TENANT}.{DEVICE}"
        return Pki(
            ca=self._pki_folder / "ca.crt",
            server_certificate=self._pki_folder / "server.crt",
            server_key=self._pki_folder / "server.key",
            device_certificate=device.with_name(device.name + ".crt"),
            device_key=device.with_name(device.name + ".key"),
        )

    @contextmanager
    def running(self) -> Iterator[float]:
        """Start, yield the seconds until ready, and stop at the end."""
        ready_s = self.start()
        try:
            yield ready_s
        finally:
            self.stop()

    def start(self) -> float:
        """Start the service and wait until it answers; return the seconds that took."""
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        started = time.monotonic()
        log = (self._folder / "cloud.log").open("ab")
        self._process = subprocess.Popen(  # our own script
            [
                script("cloud-service"),
                "serve",
                "--config",
                str(self._pki_folder / "cloud.toml"),
                "--listen",
                self.address,
                "--model",
                CLOUD_MODEL,
                "--state",
                str(self._folder / "cloud-state"),
                "--ready-file",
                str(ready),
            ],
            stdout=log,
            stderr=log,
        )
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() - started > START_S:
                raise SystemExit(
                    f"the cloud service did not start; see {self._folder / 'cloud.log'}"
                )
            time.sleep(0.1)
        return time.monotonic() - started

    def stop(self) -> None:
        """Stop in good order, as an orchestrator would: SIGTERM, then wait for the drain."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [script("cloud-service"), *words],  # our own script
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr)


def write_config(folder: Path, target: str, pki: Pki) -> Path:
    """Write the agent's configuration."""
    path = folder / "edge.toml"
    path.write_text(
        f"""\
state_folder = "edge-state"

[model]
name = "{EDGE_MODEL}"

[cloud]
target = "{target}"
ca = "{pki.ca.resolve()}"
certificate = "{pki.device_certificate.resolve()}"
key = "{pki.device_key.resolve()}"
"""
    )
    return path


def script(name: str) -> str:
    """Path of one of our console scripts, beside the running Python."""
    return str(Path(sys.executable).parent / name)


def read_requests(path: Path, folder: Path) -> list[Request]:
    """Read the samples; a DICOM file that pydicom ships is copied to where it can be read as any other."""
    requests = []
    for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
        document = json.loads(raw)
        if str(document.get("dicom", "")).startswith(PYDICOM):
            name = document["dicom"].removeprefix(PYDICOM)
            found = pydicom.data.get_testdata_file(name, download=False)
            if not isinstance(found, str):
                raise SystemExit(f"pydicom ships no {name}; correct samples/requests.jsonl")
            shutil.copy(found, folder / name)
            document["dicom"] = name
        line = parse_line(json.dumps(document).encode(), number)
        requests.append(line.to_request("cxr-triage", folder))
    return requests


def answer_all(agent: EdgeAgent, requests: list[Request]) -> list[Seen]:
    """Answer every sample, some at once, and print the table."""
    table = Table(expand=True)
    for heading in (
        "request",
        "task",
        "route",
        "conf.",
        "replaced",
        "sent B",
        "ms by step",
        "reason",
    ):
        table.add_column(
            heading,
            overflow="fold",
            justify="right" if heading in {"conf.", "replaced", "sent B"} else "left",
        )
    seen: list[Seen] = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for request, answer in track(
            zip(requests, threads.map(agent.ask, requests), strict=True),
            description="answering",
            total=len(requests),
            console=Console(stderr=True),
            transient=True,
        ):
            seen.append(Seen(request.reference, answer))
            steps = " ".join(
                f"{name}={ms:.0f}" for name, ms in answer.latency_ms.items() if ms >= 0.5
            )
            table.add_row(
                request.reference,
                request.task,
                answer.route.value,
                "-" if answer.confidence is None else f"{answer.confidence:.2f}",
                str(sum(answer.num_replaced.values())),
                str(answer.sent_bytes),
                steps,
                answer.reason,
            )
    console.print(table)
    return seen


def show_received(seen: list[Seen], requests: list[Request], captures: tuple[Capture, ...]) -> None:
    """Print one escalated request as its author wrote it, and as it arrived."""
    from protos.inference.v1 import inference_pb2

    by_name = {request.reference: request for request in requests}
    escalated = [item for item in seen if item.answer.route is Route.CLOUD]
    if not escalated:
        console.print("no request went to the cloud")
        return
    chosen = max(escalated, key=lambda item: sum(item.answer.num_replaced.values()))
    request = by_name[chosen.name]
    console.print(f"[bold]{chosen.name}, on the device:")
    console.print(
        request.text or "\n".join(message.text for message in request.messages), markup=False
    )
    for capture in captures:
        if capture.method.endswith("/Generate") and not capture.is_metadata:
            received = inference_pb2.GenerateRequest.FromString(capture.data)
            if received.request_id == chosen.answer.request_id:
                console.print(f"[bold]{chosen.name}, in the cloud ({len(capture.data)} bytes):")
                for message in received.messages:
                    console.print(message.text, markup=False)


def show_outage(
    agent: EdgeAgent, cloud: CloudProcess, seen: list[Seen], requests: list[Request]
) -> bool:
    """Ask again what the device was least sure of, while the cloud is down; start it, and wait for the better answer."""
    from protos.request_id import new_request_id

    by_name = {request.reference: request for request in requests}
    unsure = [item for item in seen if item.answer.route is Route.CLOUD and by_name[item.name].text]
    if not unsure:
        console.print("[red]no request went to the cloud")
        return False
    chosen = by_name[min(unsure, key=lambda item: item.answer.confidence or 0.0).name]
    cloud.stop()
    console.print("cloud stopped")
    request = Request(id=new_request_id(), task=chosen.task, text=chosen.text)
    answer = agent.ask(request)
    console.print(f"{answer.route.value}: {answer.reason}")
    if answer.route is not Route.QUEUED:
        return False
    console.print(f"cloud started again after {cloud.start():.0f} s")
    waiting = agent.deliver(timeout_s=DELIVERY_S)
    better = agent.collect(answer.request_id)
    if better is None:
        console.print(f"[red]not delivered; {waiting} items still wait")
        return False
    console.print(
        f"delivered, {better.route.value} by {better.model[:12]}: {better.text}", markup=False
    )
    return True


def leaks(captures: tuple[Capture, ...], identifiers: dict[str, list[str]]) -> list[str]:
    """Name each identifier of the samples that stands in the captured bytes, also in other case or with other separators."""
    text = b"\n".join(capture.data for capture in captures).decode("utf-8", "replace").casefold()
    found = []
    for name, values in identifiers.items():
        for number, value in enumerate(values):
            parts = re.findall(r"[a-z]+|[0-9]+|[^\W\d_a-z]+", value.casefold())
            # Whole words only, or the name "Ana" would be found in "analysis"; Han characters have no word borders.
            border = "" if any(ord(character) > 0x2E7F for character in value) else r"(?<![a-z0-9])"
            pattern = border + r"[\W_]*".join(map(re.escape, parts)) + border.replace("<!", "!")
            if parts and re.search(pattern, text):
                found.append(f"{name}, identifier {number}")
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EdgeError, PartitionError, WireError) as failure:
        sys.exit(f"error: {failure}")
