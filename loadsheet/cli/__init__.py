"""The command line: one module per command. A command reads its arguments, calls the core and
prints the result; it decides nothing else."""
