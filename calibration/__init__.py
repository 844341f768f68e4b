"""Ranges of activations, and the INT8 graphs that are made from them."""

if __name__ != "solo_edge.calibration":
    raise ImportError("the folder calibration/ is the package solo_edge.calibration")
