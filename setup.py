"""Package description. `kernels/` and `calibration/` are installed as `solo_edge.kernels` and
`solo_edge.calibration`: a top-level package called `kernels` would clash with an existing one on PyPI."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOLDER = {"solo_edge.kernels": "kernels", "solo_edge.calibration": "calibration"}

packages = set(find_packages(include=["solo_edge", "solo_edge.*"]))
for name, folder in FOLDER.items():
    packages |= {name, *(f"{name}.{sub}" for sub in find_packages(folder))}

version = re.search(r'__version__ = "(.+?)"', (ROOT / "solo_edge/__init__.py").read_text())
assert version is not None, "solo_edge/__init__.py must define __version__"

# What the device needs to run an engine: neither torch nor onnx nor triton.
RUNTIME = ["numpy>=1.24", "pillow>=10.1", "faster-coco-eval>=1.7", "rich>=13"]
# OpenCV is an extra because a Jetson's own build (GStreamer, CSI cameras) must not be replaced.
OPENCV = ["opencv-python-headless>=4.8"]
# Video in and out, the page for browsers, and files with zones and lines.
STREAM = ["av>=15", "aiohttp>=3.9", "pyyaml>=6"]
CPU = [*OPENCV, *STREAM, "openvino>=2025.0", "onnxruntime>=1.20"]
TRAIN = [
    *OPENCV,
    "torch>=2.6",
    "torchvision>=0.21",
    "timm>=1.0",
    "safetensors>=0.4.5",
    "onnx>=1.17",
    "onnxscript>=0.5",
    "pyyaml>=6",
]
DEVELOP = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "hypothesis>=6",
    "ruff>=0.9",
    "mypy>=1.14",
    "pycocotools>=2.0.8",
    "scipy>=1.11",
    "supervision>=0.26",
    "types-PyYAML",
]

setup(
    name="solo-edge",
    version=version.group(1),
    description="SOLOv2 instance segmentation from your own images to real-time video on the edge",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=sorted(packages),
    package_dir=FOLDER,
    package_data={
        "solo_edge": ["py.typed", "assets/*"],
        "solo_edge.video.web": ["static/*"],
        "solo_edge.kernels._triton": ["tiles/*.json"],
    },
    install_requires=RUNTIME,
    extras_require={
        "cpu": CPU,
        "stream": STREAM,
        "supervision": ["supervision>=0.26"],
        "train": TRAIN,
        "tensorboard": ["tensorboard>=2.14"],
        # Comes with torch for CUDA; alone it is enough for `solo-edge kernels build`.
        "kernels": ["triton>=3.6; platform_system == 'Linux'"],
        # tensorrt comes with the device's system (JetPack) or from NVIDIA's own index.
        "tensorrt": ["tensorrt>=10.3", "cuda-bindings>=12.8", *STREAM],
        # Instead of cuda-bindings; has to be compiled with the CUDA toolkit.
        "pycuda": ["pycuda>=2024.1"],
        "all": sorted({*CPU, *TRAIN}),
        "dev": sorted({*CPU, *TRAIN, *DEVELOP}),
    },
    entry_points={"console_scripts": ["solo-edge = solo_edge.cli:main"]},
)
