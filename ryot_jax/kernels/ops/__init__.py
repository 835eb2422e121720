"""The ops, a folder each; see `kernels.declaration` for what is in one."""
