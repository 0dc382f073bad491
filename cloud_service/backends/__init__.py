"""What answers behind the gRPC API; see :mod:`cloud_service.backends.backend`."""
