"""Parts of an autoencoder's computation that are compiled, each beside its version in torch.

- `native`: compiles the C files with this machine's compiler and checks them against torch, which is used without one.
- `selection`: the largest entries of each row, or those above a threshold (`selection.c`).
- `kernels`: sums and products along bags of rows in Triton, for GPUs; on CPUs `bags.c` has them.
"""
