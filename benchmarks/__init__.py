"""What mixdist's speed claims are measured with; see benchmarks/README.md. Not part of the installed package."""
