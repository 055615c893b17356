"""The machine: its devices, cores and memory, and the processes that work together."""
