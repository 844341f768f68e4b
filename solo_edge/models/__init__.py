"""The SOLOv2 network in PyTorch."""
