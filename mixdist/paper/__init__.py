"""The paper as commands: its tables as grids of runs, its data sets by name, and ours beside its figures."""
