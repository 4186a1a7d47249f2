"""What was asked: the typed schema of a run and the reader of YAML files and command lines."""
