"""C++ kernels of decoding. They are not ops: each is one step of a loop, and its reference is the model itself."""
