# The image of the job, of a replay and of all other commands: docker build -t lookback:0.1.0 .
#
# The base is pinned by tag and digest; the packages by requirements-image.lock, hashes included. Nothing is installed
# with apt. Another base: --build-arg PYTHON_IMAGE=… (CPython 3.11 or 3.12 with pip).
ARG PYTHON_IMAGE=python:3.12.14-slim-bookworm@sha256:0f5b26b9518d002b6173fd61daad821fa340635ebfec5bba471013f9ca114579

# Which CPUs the kernels are compiled for, by architecture: any of the last ten years. For a fleet of one kind
# --build-arg KERNEL_CPU=znver3 (a name that LLVM knows), and KERNEL_CPU_FEATURES where a name says too little.
FROM ${PYTHON_IMAGE} AS amd64
ARG KERNEL_CPU=x86-64-v3
ENV NUMBA_CPU_NAME=${KERNEL_CPU}

FROM ${PYTHON_IMAGE} AS arm64
ARG KERNEL_CPU=neoverse-n1
ENV NUMBA_CPU_NAME=${KERNEL_CPU}

FROM ${TARGETARCH} AS base
ARG KERNEL_CPU_FEATURES=
ENV NUMBA_CPU_FEATURES=${KERNEL_CPU_FEATURES} \
    LOOKBACK_CACHE=/opt/lookback/cache

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_INPUT=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/lookback
COPY requirements-image.lock requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/lookback/bin/python install --no-deps --require-hashes -r requirements-image.lock \
    && pip install --no-deps --require-hashes --target /src/backend -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY lookback lookback
COPY state state
COPY connectors connectors
COPY dataflows dataflows
RUN PYTHONPATH=/src/backend pip --python /opt/lookback/bin/python install --no-deps --no-build-isolation .
# Machine code is made here, never in a container: what Numba keeps to compile again is left out.
WORKDIR /src/warm
COPY scripts/warm.py scripts/warm.py
RUN /opt/lookback/bin/python -m scripts.warm \
    && find /opt/lookback/cache -mindepth 3 -not -name '*.kernel' -delete

FROM base
LABEL org.opencontainers.image.title="Lookback" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/lookback/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/lookback /opt/lookback
# The one folder that is written, beside /tmp; a volume that is mounted here for the first time is given this owner.
RUN install -d -o 65532 -g 65532 -m 0750 /var/lib/lookback
WORKDIR /var/lib/lookback
USER 65532:65532
# Probes are the job's own, with --metrics; which port is not known here.
HEALTHCHECK NONE
# No shell in between: the process is the first one, and SIGTERM reaches it.
ENTRYPOINT ["lookback"]
CMD ["--help"]
