"""Runs the large model: queues, steps, sampling. Nothing here knows gRPC."""
