# A device without a GPU: x86-64 or 64-bit Arm, ONNX Runtime on the processor.
#
#     docker build -f docker/device-cpu.Dockerfile -t edge-sft-device-cpu:0.1.0 .
#
# Without internet: make a wheelhouse where there is some, and give it instead of the stage that fetches wheels:
#
#     edge-sft wheelhouse --profile x86-cpu --python 3.11 --out wheelhouse
#     docker build -f docker/device-cpu.Dockerfile --build-context wheels=wheelhouse -t edge-sft-device-cpu:0.1.0 .
#
# Pin the digest of the base you have tested: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-20250520-slim

# The wheels: this checkout's own and those of what it needs.
# hadolint ignore=DL3006
FROM ${BASE} AS fetch
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
WORKDIR /src
COPY . .
RUN python3 -m venv /fetch && \
    PIP_CONSTRAINT='' /fetch/bin/python -m pip wheel --no-cache-dir --wheel-dir /wheels '.[cpu,vision]'

FROM scratch AS wheels
COPY --from=fetch /wheels /

# hadolint ignore=DL3006
FROM ${BASE}
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
# A step of its own: without network, whatever the wheels come from.
RUN --network=none --mount=type=bind,from=wheels,target=/wheels \
    /usr/local/sbin/install-device.sh install --wheels /wheels --extras cpu,vision

ENV PATH=/opt/edge-sft/bin:$PATH \
    HOME=/var/lib/edge-sft \
    EDGE_SFT_ROOT=/var/lib/edge-sft \
    EDGE_SFT_KEYS=/etc/edge-sft/keys \
    EDGE_SFT_HEARTBEAT=/run/edge-sft/heartbeat \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/edge-sft
VOLUME /var/lib/edge-sft
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["edge-sft", "agent", "health"]
ENTRYPOINT ["edge-sft"]
CMD ["run", "--config", "/etc/edge-sft/agent.toml"]
