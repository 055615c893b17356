# docker build -t histo .                                         the default build of torch: CPUs and current CUDA
# docker build -t histo --build-arg TORCH_INDEX=URL .     with the wheel index that pytorch.org names for your CUDA, or for CPUs alone
# docker run --rm -v histo:/workspace histo demo                  (with CUDA: --gpus all)
# docker build -t histo --build-arg EXTRAS=slides,parquet .       with extras of histo
ARG BASE=python:3.12-slim
FROM ${BASE}

# The index of torch wheels; empty takes the default build, which runs on CPUs and on current CUDA.
ARG TORCH_INDEX=""
# Extras of histo, separated by commas.
ARG EXTRAS=""

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HISTO_WORKSPACE=/workspace
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 'torch>=2.10' 'torchvision>=0.25'

# --compile builds its kernels with a C compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY completions completions
COPY histocli histocli
RUN pip install ".${EXTRAS:+[$EXTRAS]}" && rm -rf /src/*

RUN useradd --create-home histo && mkdir /workspace && chown histo:histo /workspace
USER histo
WORKDIR /workspace
VOLUME /workspace
ENTRYPOINT ["histo"]
CMD ["--help"]
