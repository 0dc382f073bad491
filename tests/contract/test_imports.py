"""What `import edge_agent` may not do: load heavy libraries, start a thread, take long."""

import json
import subprocess
import sys

import edge_agent

PROBE = """
import json, sys, threading, time

started = time.process_time()
import edge_agent
took_s = time.process_time() - started
heavy = {"torch", "transformers", "spacy", "presidio_analyzer", "onnx", "onnxruntime", "grpc", "pydicom", "starlette", "uvicorn", "scipy", "sklearn"}
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"took_s": took_s, "heavy": sorted(heavy & loaded), "threads": threading.active_count()}))
"""


def probe():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_light_and_starts_nothing():
    seen = probe()
    assert seen["heavy"] == []
    assert seen["threads"] == 1


def test_import_takes_under_300_ms():
    # Processor time and the least of five, so that a busy machine does not decide; torch alone takes over a second.
    assert min(probe()["took_s"] for _ in range(5)) < 0.3


def test_every_exported_name_exists_and_is_sorted():
    assert list(edge_agent.__all__) == sorted(edge_agent.__all__)
    for name in edge_agent.__all__:
        assert getattr(edge_agent, name) is not None
