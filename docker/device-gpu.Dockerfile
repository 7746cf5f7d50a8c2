# A PC with an NVIDIA GPU: ONNX Runtime on CUDA 13 with cuDNN 9, and TensorRT-RTX for GeForce and RTX cards.
#
#     docker build -f docker/device-gpu.Dockerfile -t edge-sft-device-gpu:0.1.0 .
#
# Without internet: make a wheelhouse where there is some, and give it instead of the stage that fetches wheels:
#
#     edge-sft wheelhouse --profile x86-cpu --python 3.12 --extra gpu --extra vision --extra rtx --out wheelhouse
#     docker build -f docker/device-gpu.Dockerfile --build-context wheels=wheelhouse -t edge-sft-device-gpu:0.1.0 .
#
# Run it with --gpus all (NVIDIA Container Toolkit); the driver comes from the host and must serve CUDA 13 (580 or newer).
#
# Pin the digest of the base you have tested: --build-arg BASE=nvcr.io/nvidia/cuda@sha256:...
ARG BASE=nvcr.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

# The wheels: this checkout's own and those of what it needs.
# hadolint ignore=DL3006
FROM ${BASE} AS fetch
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
WORKDIR /src
COPY . .
RUN python3 -m venv /fetch && \
    PIP_CONSTRAINT='' /fetch/bin/python -m pip wheel --no-cache-dir --wheel-dir /wheels '.[gpu,vision,rtx]'

FROM scratch AS wheels
COPY --from=fetch /wheels /

# hadolint ignore=DL3006
FROM ${BASE}
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
# A step of its own: without network, whatever the wheels come from.
RUN --network=none --mount=type=bind,from=wheels,target=/wheels \
    /usr/local/sbin/install-device.sh install --wheels /wheels --extras gpu,vision,rtx

ENV PATH=/opt/edge-sft/bin:$PATH \
    HOME=/var/lib/edge-sft \
    EDGE_SFT_ROOT=/var/lib/edge-sft \
    EDGE_SFT_KEYS=/etc/edge-sft/keys \
    EDGE_SFT_HEARTBEAT=/run/edge-sft/heartbeat \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/edge-sft
VOLUME /var/lib/edge-sft
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["edge-sft", "agent", "health"]
ENTRYPOINT ["edge-sft"]
CMD ["run", "--config", "/etc/edge-sft/agent.toml"]
