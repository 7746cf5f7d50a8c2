# The coordinator of federated fine-tuning: training (the run's own Python aggregates with it), Flower, nginx.
#
#     docker build -f docker/coordinator.Dockerfile -t edge-sft-coordinator:0.1.0 .
#     cd docker && docker compose -f compose-federation.yml up -d        (docs/federated-coordinator.md)
#
# Without internet: --build-context wheels=FOLDER, a folder of all wheels (pip wheel -c constraints.txt
# --wheel-dir FOLDER '.[cpu,vision,train,federated]' where there is some), and a base that has python3-venv and nginx.
# Pin the digest of the base you have tested: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-20250520-slim

# hadolint ignore=DL3006
FROM ${BASE} AS fetch
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
RUN /usr/local/sbin/install-device.sh packages
WORKDIR /src
COPY . .
RUN python3 -m venv /fetch && \
    /fetch/bin/python -m pip wheel --no-cache-dir -c constraints.txt --wheel-dir /wheels '.[cpu,vision,train,federated]'

FROM scratch AS wheels
COPY --from=fetch /wheels /

# hadolint ignore=DL3006
FROM ${BASE}
COPY docker/install-device.sh /usr/local/sbin/install-device.sh
# hadolint ignore=DL3008
RUN /usr/local/sbin/install-device.sh packages && \
    (command -v nginx || (apt-get update -q && apt-get install -q -y --no-install-recommends nginx-light)) && \
    rm -rf /var/lib/apt/lists/*
ENV STATE=/work
RUN --network=none --mount=type=bind,from=wheels,target=/wheels \
    /usr/local/sbin/install-device.sh install --wheels /wheels --extras cpu,vision,train,federated

ENV PATH=/opt/edge-sft/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin \
    HOME=/work \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /work
VOLUME /work
EXPOSE 8443
HEALTHCHECK NONE
ENTRYPOINT ["edge-sft"]
CMD ["federate", "up", "--dir", "/work/federation"]
