"""From the tars of another webdataset tool to a set that training reads in place: what `mixdist index` does."""
