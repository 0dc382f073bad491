"""Ranges of a model's layers that run: graph, files, ONNX Runtime. Re-exports nothing, so that an import loads one of them."""
