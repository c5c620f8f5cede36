"""What code runs on: the compiled module and its kernels, this machine, its GPUs, other processes."""
