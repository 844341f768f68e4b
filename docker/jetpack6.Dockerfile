# Runs engines on a Jetson Orin with JetPack 6.1 or later. How to build and start it: docs/jetson.md.
#
# NVIDIA's image of JetPack 6.1 brings CUDA 12.6 and TensorRT 10.3 with its Python package; the driver comes from
# the host. It fits every later JetPack 6, too.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        python3-libnvinfer \
        python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/solo-edge
COPY setup.py pyproject.toml README.md LICENSE ./
COPY calibration calibration
COPY kernels kernels
COPY solo_edge solo_edge
# The environment sees the system's TensorRT, which is built for NumPy 1. In here there is no OpenCV of JetPack's
# to keep.
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir . \
        "numpy<2" "opencv-python-headless>=4.8" "av>=15" "cuda-bindings>=12.8,<13"
ENV PATH=/opt/venv/bin:$PATH

# The groups that own a Jetson's devices; their numbers may have to be given again, see docs/jetson.md.
RUN useradd --create-home --groups video solo
USER solo
WORKDIR /data
ENTRYPOINT ["solo-edge"]
CMD ["doctor"]
