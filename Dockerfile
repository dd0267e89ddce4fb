# The page and the HTTP interface on a CPU, by a user without rights, with nothing writable but /tmp:
#   docker build -t timbre .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 timbre
FROM python:3.12-slim
# The index of PyTorch's CPU builds, by --build-arg: saves gigabytes.
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt /
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /constraints.txt torch
COPY . /src
RUN pip install -c /constraints.txt '/src[app,export]' && useradd --create-home speaker
USER speaker
WORKDIR /tmp
ENV HOME=/tmp TIMBRE_CACHE=/tmp/timbre TIMBRE_VOICES=/tmp/voices PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
HEALTHCHECK --start-period=60s \
    CMD python -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/api/health')"
ENTRYPOINT ["timbre", "app", "--host", "0.0.0.0"]
