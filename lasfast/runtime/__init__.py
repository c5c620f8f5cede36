"""What code runs on: the compiled module, this machine, its GPUs, other processes, measured choices."""
