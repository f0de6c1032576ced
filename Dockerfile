# syntax=docker/dockerfile:1
# The server with its libtorch and weights; Postgres is another container (see docker-compose.yml).
#
#   docker build -t faceid .
#
# By default libtorch is the CPU-trimmed one that `make setup` makes. To build with the official archive instead, pass the
# address of the libtorch 2.11.0 CPU zip (cxx11 ABI, Linux, C++) that PyTorch's "Get Started" page gives, and its sha256:
#
#   docker build --build-arg LIBTORCH_URL=... --build-arg LIBTORCH_SHA256=... -t faceid .

FROM node:22-bookworm-slim AS deps
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Versions of a stable Debian's packages only move for fixes, which are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl python3 python3-pip unzip \
    && rm -rf /var/lib/apt/lists/*
ENV FACEID_HOME=/deps
WORKDIR /src
COPY scripts ./scripts
RUN scripts/setup.py --only weights
ARG LIBTORCH_URL=""
ARG LIBTORCH_SHA256=""
RUN if [ -n "$LIBTORCH_URL" ]; then \
        curl --fail --location --silent --show-error --output /tmp/libtorch.zip "$LIBTORCH_URL"; \
        echo "$LIBTORCH_SHA256  /tmp/libtorch.zip" | sha256sum --check --strict; \
        unzip -q /tmp/libtorch.zip -d /tmp; \
        rm /tmp/libtorch.zip; \
        mv /tmp/libtorch /deps/libtorch; \
    else \
        scripts/setup.py --only libtorch; \
        mv /deps/libtorch-2.11.0 /deps/libtorch; \
    fi
# What the server loads, for the last stage. libtorch.so is a linker script in the trimmed folder and harmless there.
WORKDIR /deps/libtorch/lib
RUN mkdir /deps/lib && cp -L libtorch.so libtorch_cpu.so libc10.so ./*.so.* /deps/lib/

FROM rust:1.95-bookworm AS build
ENV LIBTORCH=/deps/libtorch CARGO_TERM_COLOR=never
COPY --from=deps /deps/libtorch /deps/libtorch
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin faceid \
    && install -D -m 755 target/release/faceid /out/faceid

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 faceid \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/faceid --create-home faceid
# build.rs lets the binary look for libtorch in ../lib.
COPY --from=deps /deps/lib /opt/faceid/lib
COPY --from=deps /deps/weights /opt/faceid/weights
COPY --from=build /out/faceid /opt/faceid/bin/faceid
ENV PATH=/opt/faceid/bin:$PATH \
    FACEID_BIND=0.0.0.0:8080 \
    FACEID_WEIGHTS_DIR=/opt/faceid/weights \
    FACEID_DATA_DIR=/var/lib/faceid \
    FACEID_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/faceid
VOLUME /var/lib/faceid
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["faceid", "health"]
ENTRYPOINT ["faceid"]
CMD ["serve"]
