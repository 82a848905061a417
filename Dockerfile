# syntax=docker/dockerfile:1.17
# The images, for those who have an engine; `make images` makes them without one. One target each:
#   docker build --target sluice-sidecar --tag sluice-sidecar:0.1.0 --build-arg SLUICE_COMMIT=$(git rev-parse --short=12 HEAD) .
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev make musl-tools && rm -rf /var/lib/apt/lists/*
WORKDIR /sluice
COPY . .
ARG SLUICE_COMMIT=unknown
ENV CARGO_TARGET_DIR=/target
RUN --mount=type=cache,target=/target --mount=type=cache,target=/usr/local/cargo/registry \
    folder=$(hack/static.sh sluice-operator sluice-sidecar sluice-example-app) && \
    install -m 0555 -D -t /out "$folder"/sluice-operator "$folder"/sluice-sidecar "$folder"/sluice-example-app

FROM scratch AS sluice-example-app
COPY --from=build /out/sluice-example-app /
USER 65532:65532
ENTRYPOINT ["/sluice-example-app"]

FROM scratch AS sluice-operator
COPY --from=build /out/sluice-operator /
USER 65532:65532
ENTRYPOINT ["/sluice-operator"]

FROM scratch AS sluice-sidecar
COPY --from=build /out/sluice-sidecar /
USER 65532:65532
ENTRYPOINT ["/sluice-sidecar"]
