# One image: AWS Lambda's own entry point, and with `serve` a server on a port. Plain syntax, so that buildah 1.28 builds it too.
# BASE is any Debian image with Python 3.11 or newer that has venv and pip.
ARG BASE=public.ecr.aws/docker/library/python:3.13-slim

FROM ${BASE} AS build
# Of this stage only: where the machine that builds finds packages, and whose certificates it trusts.
ARG PIP_INDEX_URL
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements/runtime.txt /build/runtime.txt
# Every file by its hash, wheels only: there is no compiler here, and none is wanted.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --require-hashes --only-binary :all: --no-compile --requirement /build/runtime.txt \
 && /opt/venv/bin/pip uninstall --quiet --yes pip \
 && find /opt/venv -name tests -type d -path "*/django/*" -prune -exec rm -rf {} +
COPY manage.py CHANGELOG.md LICENSE /app/
COPY providers /app/providers
COPY ledger /app/ledger
COPY gateway /app/gateway
COPY console /app/console
COPY proxysite /app/proxysite
COPY scripts/entrypoint /app/entrypoint
RUN cd /app && DJANGO_SETTINGS_MODULE=proxysite.settings DJANGO_SECRET_KEY=only-for-collecting-static-files \
      GATEWAY_DATA_DIR=/tmp/collect /opt/venv/bin/python manage.py collectstatic --noinput --verbosity 0 \
 && rm -rf /tmp/collect

FROM ${BASE}
LABEL org.opencontainers.image.licenses="Apache-2.0" com.amazonaws.lambda.feature.snapstart="Allow"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# The official image has no bytecode of the standard library, and Lambda's root is read-only: without this, each cold start
# compiles all anew. unchecked-hash: files keep no times that could be compared. User 65532 is nobody in particular.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" /opt/venv/lib /app > /dev/null || true; \
    /opt/venv/bin/python -c 'import importlib.util, os, sys; sys.exit(not os.path.exists(importlib.util.cache_from_source("/app/manage.py")))' \
 && rm -rf /root/.cache /var/cache/apt /var/lib/apt/lists /tmp/* \
 && chmod -R a+rX /opt/venv /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DJANGO_SETTINGS_MODULE=proxysite.settings
WORKDIR /app
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["/app/entrypoint"]
