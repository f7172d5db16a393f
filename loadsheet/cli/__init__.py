"""The command line: one module per command. It reads arguments, calls the core, prints; it decides
nothing else."""
