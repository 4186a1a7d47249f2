"""The paper's experiments as commands: what is measured, beside what the paper says."""
