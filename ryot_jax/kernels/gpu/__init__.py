"""Support for kernels on GPUs, shared by several ops."""
