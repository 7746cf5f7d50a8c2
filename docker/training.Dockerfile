# Training, export and reports: everything a device needs none of. PyTorch brings its own CUDA: with --gpus all it is used.
#
#     docker build -f docker/training.Dockerfile -t edge-sft-training:0.1.0 .
#     docker run --rm -it --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" edge-sft-training:0.1.0 build recipe.toml
#
# Without internet: --build-context wheels=FOLDER, a folder of all wheels (pip wheel -c constraints.txt --wheel-dir
# FOLDER '.[cpu,vision,train]' where there is some).
# Pin the digest of the base you have tested: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-20250520-slim

# hadolint ignore=DL3006
FROM ${BASE} AS fetch
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
WORKDIR /src
COPY . .
RUN python3 -m venv /fetch && \
    /fetch/bin/python -m pip wheel --no-cache-dir -c constraints.txt --wheel-dir /wheels '.[cpu,vision,train]'

FROM scratch AS wheels
COPY --from=fetch /wheels /

# hadolint ignore=DL3006
FROM ${BASE}
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
ENV STATE=/work
RUN --network=none --mount=type=bind,from=wheels,target=/wheels \
    /usr/local/sbin/install-device.sh install --wheels /wheels --extras cpu,vision,train

ENV PATH=/opt/edge-sft/bin:$PATH \
    HOME=/work \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /work
VOLUME /work
HEALTHCHECK NONE
ENTRYPOINT ["edge-sft"]
CMD ["--help"]
