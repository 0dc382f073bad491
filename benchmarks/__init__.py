"""Measurements: ours and the peer in turn, in one run. `python -m benchmarks NAME --json [--quick] [--data DIR]`."""
