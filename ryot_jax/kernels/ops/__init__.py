"""The ops, one folder each; `kernels.declaration` describes a folder's contents."""
