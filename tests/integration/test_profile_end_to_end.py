"""`edge-agent profile` against the real cloud service: the link, the cloud's model and the device's, and a plan from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from cloud_service.rpc.request_checks import MAX_PROBE_BYTES
from cloud_service.tenancy.pki import CertificateFolder
from edge_agent.cli import edge_agent
from partition.cli import partition
from partition.planning.profile import load_profile
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.cloud_harness import SCANNER, CloudProcess, Site, cloud_process
from tests.simulators import TcpProxy
from tests.tiny_models import make_folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("model") / "large"
    model = make_folder(folder, architecture="qwen2", seed=3, head_dim=16)
    return Site.make(tmp_path_factory.mktemp("site"), model)


@pytest.fixture(scope="module")
def cloud(site: Site) -> Iterator[CloudProcess]:
    with cloud_process(site) as process:
        yield process


def config_file(folder: Path, site: Site, target: str) -> Path:
    pki = CertificateFolder(site.root)
    pair = pki.device(SCANNER)
    small = make_folder(folder / "small", architecture="qwen2", seed=4, head_dim=16)
    path = folder / "edge.toml"
    path.write_text(
        f"state_folder = '{folder}'\ncache_folder = '{folder}'\n"
        f"[model]\nname = '{small}'\nthreads = 1\n"
        f"[cloud]\ntarget = '{target}'\nca = '{pki.authority.certificate}'\n"
        f"certificate = '{pair.certificate}'\nkey = '{pair.key}'\nverify = true\nprofile = 'none.json'\n"
        f"[split]\nmodel = '{site.model}'\n"
    )
    return path


def test_everything_that_planning_needs_is_measured(
    site: Site, cloud: CloudProcess, tmp_path: Path
) -> None:
    port = int(str(cloud.ready["address"]).rpartition(":")[2])
    output = tmp_path / "device.json"
    with TcpProxy(port) as proxy:
        proxy.delay_s = 0.015  # each way
        config = config_file(tmp_path, site, proxy.target)
        arguments = ["profile", "--config", str(config), "--output", str(output)]
        result = CliRunner().invoke(edge_agent, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "round trip" in result.output
        made = load_profile(output)
        assert made.link is not None
        assert 0.03 <= made.link.round_trip_s < 0.2
        proxy.delay_s = 0.06
        again = [*arguments, "--link-only"]
        assert CliRunner().invoke(edge_agent, again, catch_exceptions=False).exit_code == 0
    later = load_profile(output)
    assert later.link is not None
    assert later.link.round_trip_s >= 0.12
    assert (later.edge, later.cloud) == (made.edge, made.cloud)
    assert made.cloud is not None
    assert made.edge_layers is not None
    assert made.cloud.num_layers == made.edge.num_layers == 4
    assert made.cloud.decode(100) > 0
    assert made.cloud.verify_s is not None
    planned = CliRunner().invoke(partition, ["plan", "--profile", str(output), "--json"])
    assert {option["mode"] for option in json.loads(planned.output)["options"]} == {
        "local",
        "cascade",
        "cloud",
        "verify",
        "split",
    }


def test_a_probe_beyond_the_limit_is_refused(site: Site, cloud: CloudProcess) -> None:
    with cloud.channel() as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        reply = stub.Probe(
            inference_pb2.ProbeRequest(padding=bytes(1000), reply_bytes=5000), timeout=10
        )
        assert len(reply.padding) == 5000
        with pytest.raises(grpc.RpcError) as refused:
            stub.Probe(inference_pb2.ProbeRequest(reply_bytes=MAX_PROBE_BYTES + 1), timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
