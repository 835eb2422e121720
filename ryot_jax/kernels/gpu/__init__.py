"""What the kernels for GPUs share."""
