"""The widest rows that the Triton kernels of norms take. Imports no Pallas."""

LARGEST_D = 8192  # in the backward pass two vectors of sums have to stay in registers
