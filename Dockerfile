# tlac on CPUs, without root. Images and results lie in /work, stored answers in /cache:
#
#   docker build -t tlac --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm -e GEMINI_API_KEY -v "$PWD":/work -v tlac-answers:/cache tlac \
#     bench --backend gemini --dataset folder:my-photos --encoder minilm
#
# ADDRESS is the package index of CPU builds that PyTorch's installation page names; left out, torch comes with the
# libraries for GPUs, which are gigabytes. Keys are given when the container runs, and stand in no layer.
FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# before the sources: they change, and this layer stays
RUN python -m venv /opt/tlac \
  && if [ -n "$TORCH_INDEX" ]; then /opt/tlac/bin/pip install --index-url "$TORCH_INDEX" "torch>=2.6"; fi
COPY pyproject.toml README.md LICENSE /src/
COPY tlac /src/tlac
COPY backends /src/backends
COPY prompts /src/prompts
COPY benchmarks /src/benchmarks
RUN /opt/tlac/bin/pip install "/src[embedded,hf]"

FROM python:3.12-slim
COPY --from=build /opt/tlac /opt/tlac
RUN useradd --create-home --uid 1000 tlac && install -d -o tlac /work /cache
ENV PATH=/opt/tlac/bin:$PATH TLAC_CACHE_DIR=/cache
USER 1000
WORKDIR /work
ENTRYPOINT ["tlac"]
CMD ["--help"]
