"""Kernels of decoding in C++. They are no ops: each is one step of a loop, and its reference is the model itself."""
