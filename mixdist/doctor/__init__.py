"""Whether a machine can train: what `mixdist doctor` looks at. Each file finds out about one side of it."""
