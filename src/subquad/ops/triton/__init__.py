"""Kernels for GPUs in Triton, behind the same operators that run in torch elsewhere.

Nothing outside this folder imports triton. Importing a module of it needs the package (extra
`gpu`); the operators do so the first time that they meet tensors of a CUDA device.
"""
