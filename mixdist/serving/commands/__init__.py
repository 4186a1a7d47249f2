"""`mixdist export`, `predict` and `evaluate`: their command lines."""
