"""What holds for every test."""

from __future__ import annotations

import os

# Read when gRPC starts. A test that forks (tests/killed_device.py) uses no gRPC in the child, where its handlers would
# start threads on descriptors that are gone.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
