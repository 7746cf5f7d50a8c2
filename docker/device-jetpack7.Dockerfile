# Jetson Thor with JetPack 7.0 or 7.1 (Jetson Linux 38.2, 38.4): TensorRT 10.13 and CUDA 13 from NVIDIA's base for Arm
# servers, whose interfaces Thor has. Jetson Linux 38 does not run on Orin (docs.nvidia.com/jetson/archives/r38.4). Orin
# has JetPack 7 from 7.2 (Jetson Linux 39.2) on; whether this base runs there is not known here: give one that NVIDIA
# names for Orin (--build-arg BASE=...), or stay on device-jetpack6 with JetPack 6.
#
#     docker build -f docker/device-jetpack7.Dockerfile -t edge-sft-device-jetpack7:0.1.0 .
#
# Without internet: make a wheelhouse where there is some, and give it instead of the stage that fetches wheels:
#
#     edge-sft wheelhouse --profile arm64-cpu --python 3.12 --glibc 2.39 --extra cpu --extra vision --out wheelhouse
#     docker build -f docker/device-jetpack7.Dockerfile --build-context wheels=wheelhouse -t edge-sft-device-jetpack7:0.1.0 .
#
# Run it with --runtime nvidia. NVIDIA publishes no small runtime image of TensorRT for JetPack 7: this base is large. Take
# the one whose TensorRT is that of the bundles' proofs; an engine is built again when the version changes.
#
# Pin the digest of the base you have tested: --build-arg BASE=nvcr.io/nvidia/tensorrt@sha256:...
ARG BASE=nvcr.io/nvidia/tensorrt:25.08-py3

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
    /usr/local/sbin/install-device.sh install --wheels /wheels --extras cpu,vision --system-site-packages

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
