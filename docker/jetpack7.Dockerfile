# Runs engines on a Jetson with JetPack 7. How to build and start it: docs/jetson.md.
#
# For JetPack 7 NVIDIA publishes no image of JetPack itself: this is the plain CUDA image for ARM with TensorRT from
# the Jetson's own package server. L4T must be the release of the host: r39.2 is JetPack 7.2, r38.4 is 7.1.
FROM nvcr.io/nvidia/cuda:13.2.1-base-ubuntu24.04

ARG L4T=r39.2
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /usr/share/keyrings/nvidia-jetson.asc
# The CUDA image's own package server has newer TensorRTs that are not made for a Jetson, and its libcuda for older
# drivers is that of servers.
RUN rm -rf /etc/apt/sources.list.d/cuda* /usr/local/cuda*/compat \
    && chmod 644 /usr/share/keyrings/nvidia-jetson.asc \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates gnupg \
    && gpg --show-keys --with-colons /usr/share/keyrings/nvidia-jetson.asc \
        | grep --quiet '^fpr:*3C6D1FF3100C8C3ABB0869C0E6543461A9996195:$' \
    && echo "deb [signed-by=/usr/share/keyrings/nvidia-jetson.asc] https://repo.download.nvidia.com/jetson/common $L4T main" \
        > /etc/apt/sources.list.d/nvidia-jetson.list \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        python3-libnvinfer \
        python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/solo-edge
COPY setup.py pyproject.toml README.md LICENSE ./
COPY calibration calibration
COPY kernels kernels
COPY solo_edge solo_edge
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir . \
        "numpy<2" "opencv-python-headless>=4.8" "av>=15" "cuda-bindings>=13,<14"
ENV PATH=/opt/venv/bin:$PATH

# The groups that own a Jetson's devices; their numbers may have to be given again, see docs/jetson.md.
RUN useradd --create-home --groups video solo
USER solo
WORKDIR /data
ENTRYPOINT ["solo-edge"]
CMD ["doctor"]
