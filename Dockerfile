# magicap serve on a CPU. Build: docker build -t magicap . ; run: docker compose up, or as docs/service.md says.
FROM python:3.11-slim-bookworm AS build
# Torch for CPUs alone, from torch's own index: a tenth of the size. Versions are those of constraints.txt.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/magicap
COPY constraints.txt ./
RUN grep -E '^torch(vision)?==' constraints.txt > torch.txt \
    && /opt/magicap/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" \
       --extra-index-url https://pypi.org/simple -r torch.txt -c constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY magicap magicap
RUN /opt/magicap/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/magicap /opt/magicap
RUN useradd --system --uid 10001 --no-create-home magicap
# The file system may be read-only: what is written is large uploads, into /tmp.
ENV PATH=/opt/magicap/bin:$PATH HOME=/tmp HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# SIGTERM ends it once what it has begun is answered.
STOPSIGNAL SIGTERM
ENTRYPOINT ["magicap", "serve", "--host", "0.0.0.0"]
