# syntax=docker/dockerfile:1
# The cloud service, with PyTorch for the processor; no model inside.
#   docker build -f deploy/cloud.Dockerfile -t tandem-cloud .
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128

ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tandem
# First and by itself: the largest layer changes least.
RUN /opt/tandem/bin/pip install --index-url "${TORCH_INDEX}" 'torch>=2.9'
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY partition partition
COPY cloud_service cloud_service
COPY edge_agent/__init__.py edge_agent/__init__.py
RUN /opt/tandem/bin/pip install '.[cloud,console]'

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="Tandem cloud service" \
      org.opencontainers.image.licenses="Apache-2.0"
# The same number as in edge.Dockerfile: certificates that one makes the other can read.
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/tandem --shell /usr/sbin/nologin tandem \
 && install -d -o tandem -g tandem -m 0700 /var/lib/tandem /var/cache/tandem
COPY --from=build /opt/tandem /opt/tandem
ENV PATH=/opt/tandem/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TANDEM_CLOUD_LISTEN=0.0.0.0:7443 \
    TANDEM_CLOUD_HEALTH_LISTEN=127.0.0.1:7444 \
    TANDEM_CLOUD_METRICS_LISTEN=0.0.0.0:9464 \
    TANDEM_CLOUD_STATE__DIRECTORY=/var/lib/tandem \
    TANDEM_CLOUD_MODEL__CACHE_DIR=/var/cache/tandem
USER 10001:10001
WORKDIR /var/lib/tandem
VOLUME ["/var/lib/tandem", "/var/cache/tandem"]
EXPOSE 7443 9464
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=3 \
  CMD ["python", "-c", "import sys, grpc; from grpc_health.v1 import health_pb2 as p, health_pb2_grpc as s; sys.exit(s.HealthStub(grpc.insecure_channel('127.0.0.1:7444')).Check(p.HealthCheckRequest(), timeout=4).status != p.HealthCheckResponse.SERVING)"]
# Running answers get 15 s, then the service goes (drain.finish_s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["cloud-service"]
CMD ["serve"]
