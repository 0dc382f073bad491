# syntax=docker/dockerfile:1
# The edge agent: no torch, no transformers, no model inside.
#   docker build -f deploy/edge.Dockerfile -t tandem-edge .

ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tandem
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY partition partition
COPY edge_agent edge_agent
COPY cloud_service/__init__.py cloud_service/__init__.py
RUN /opt/tandem/bin/pip install '.[edge]'

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="Tandem edge agent" \
      org.opencontainers.image.licenses="Apache-2.0"
# The same number as in cloud.Dockerfile: certificates that one makes the other can read.
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/tandem --shell /usr/sbin/nologin tandem \
 && install -d -o tandem -g tandem -m 0700 /var/lib/tandem /var/cache/tandem
COPY --from=build /opt/tandem /opt/tandem
ENV PATH=/opt/tandem/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TANDEM_EDGE_STATE_FOLDER=/var/lib/tandem \
    TANDEM_EDGE_CACHE_FOLDER=/var/cache/tandem
USER 10001:10001
WORKDIR /var/lib/tandem
# The model, the queue and its key live here; they are fetched or made at the first start.
VOLUME ["/var/lib/tandem", "/var/cache/tandem"]
EXPOSE 8010
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://{os.environ.get('TANDEM_EDGE_HTTP__HOST', '127.0.0.1')}:{os.environ.get('TANDEM_EDGE_HTTP__PORT', '8010')}/healthz\", timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["edge-agent"]
CMD ["serve"]
