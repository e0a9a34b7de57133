# The builder with all of its tools. BASE is any Debian 12, from a registry or made by mmdebstrap.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3 python3-venv mmdebstrap gpg uidmap ca-certificates qemu-user-static binfmt-support \
        arch-test squashfs-tools squashfs-tools-ng qemu-system-x86 qemu-system-arm qemu-utils kmod \
        e2fsprogs util-linux mount openssh-client \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv /opt/rofs && /opt/rofs/bin/pip install --no-cache-dir /src && rm -rf /src /root/.cache
WORKDIR /work
ENTRYPOINT ["/opt/rofs/bin/rofs"]
