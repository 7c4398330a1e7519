FROM python:3.11-slim AS base
# ONNX Runtime's Linux builds send usage data to their maker unless told not to
ENV ORT_DISABLE_TELEMETRY=1 PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /srv/cuvee
# var holds the default SQLite file and the cache of the UCI data; all else belongs to root
RUN useradd --uid 10001 --no-create-home cuvee && install -d -o cuvee -g cuvee var

# pip's share of pyproject.toml alone, so that no other edit of it installs everything again
FROM base AS requirements
COPY pyproject.toml .
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = project['optional-dependencies']; \
    open('api.txt', 'w').write('\n'.join(project['dependencies'] + extras['postgres'])); \
    open('worker.txt', 'w').write('\n'.join(extras['worker']))"

FROM base AS source
WORKDIR /source
COPY app app
COPY worker worker
# a strict umask of whoever cloned must not lock the image's user out
RUN chmod -R a+rX .

FROM base AS api-packages
COPY constraints.txt .
COPY --from=requirements /srv/cuvee/api.txt .
RUN python -m venv --without-pip /venv && pip --python /venv install --no-cache-dir -c constraints.txt -r api.txt

FROM base AS api
COPY --from=api-packages /venv /venv
COPY --from=source /source/app app
USER cuvee
ENV CUVEE_HOST=0.0.0.0 CUVEE_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CUVEE_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "app.cli"]
CMD ["api"]

FROM api-packages AS worker-packages
COPY --from=requirements /srv/cuvee/worker.txt .
# pip reads it: it may name an index with the CPU build of the pinned torch, where pip's own has only the far larger CUDA build
ARG PIP_EXTRA_INDEX_URL
RUN pip --python /venv install --no-cache-dir -c constraints.txt -r worker.txt

FROM base AS worker
COPY --from=worker-packages /venv /venv
COPY --from=source /source .
USER cuvee
# no HEALTHCHECK: an idle worker shows no sign of life, and of one that hangs on a job the queue knows by its lease
ENTRYPOINT ["python", "-m", "worker"]
