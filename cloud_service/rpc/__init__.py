"""The gRPC face: servicers, interceptors, and the checks on what comes in."""
