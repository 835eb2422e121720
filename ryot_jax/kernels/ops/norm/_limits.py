"""The widest rows that the Triton kernels of norms take. Imports no Pallas."""

LARGEST_D = 8192  # two vectors of sums have to stay in registers in the backward pass
