"""How it is driven: strategies, updates, the loop, evaluation and checkpoints."""
