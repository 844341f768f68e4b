"""A stand-in for PyCUDA: the part of its interface that we use, on host memory."""
