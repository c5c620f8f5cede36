"""The machine that code runs on: the compiled module, GPUs, other processes, measured choices."""
