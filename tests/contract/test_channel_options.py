"""Channel options come in pairs: what the device sends must be what the cloud puts up with."""

from __future__ import annotations

from cloud_service.config import load_config
from cloud_service.ports import server_options
from edge_agent.cloud.channel import CHANNEL_RETRIES, ChannelSettings
from protos.inference.v1 import inference_pb2

DEVICE = dict(ChannelSettings().options())
TLS = {"certificate": "server.crt", "key": "server.key", "client_authority": "ca.crt"}
CLOUD = dict(server_options(load_config(None, flags={"tls": TLS}, environment={})))


def test_the_devices_pings_are_not_too_many_for_the_cloud() -> None:
    """Else the server says GOAWAY too_many_pings after two strikes."""
    least = CLOUD["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert int(DEVICE["grpc.keepalive_time_ms"]) > least
    assert CLOUD["grpc.keepalive_permit_without_calls"] == 1
    assert DEVICE["grpc.keepalive_permit_without_calls"] == 1
    assert DEVICE["grpc.http2.max_pings_without_data"] == 0


def test_messages_have_the_same_limit_on_both_sides() -> None:
    for name in ("grpc.max_receive_message_length", "grpc.max_send_message_length"):
        assert DEVICE[name] == CLOUD[name]


def test_a_half_open_link_is_given_up_in_the_time_that_keepalive_names() -> None:
    for side in (DEVICE, CLOUD):
        assert side["grpc.http2.ping_timeout_ms"] == side["grpc.keepalive_timeout_ms"]


def test_methods_that_the_channel_retries_exist() -> None:
    methods = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods_by_name
    for name in CHANNEL_RETRIES:
        assert name["service"] == "tandem.inference.v1.InferenceService"
        assert name["method"] in methods
