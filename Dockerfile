# CPU:  docker build -t cmkd .
# CUDA: docker build -t cmkd --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
# Run:  docker run --rm -v "$PWD":/work -v cmkd-cache:/cache cmkd sweep smoke     (--gpus all with CUDA)
ARG BASE=ubuntu:24.04
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/cmkd
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cmkd cmkd
COPY sweeps sweeps
COPY reports reports
# torch's own index has builds for one CUDA version or none: --build-arg TORCH_INDEX=ADDRESS
ARG TORCH_INDEX=
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt '.[postgres]'
ENV PATH=/opt/venv/bin:$PATH CMKD_CACHE=/cache
RUN useradd --create-home cmkd && mkdir /work /cache && chown cmkd /work /cache
USER cmkd
WORKDIR /work
VOLUME /cache
ENTRYPOINT ["cmkd"]
CMD ["--help"]
