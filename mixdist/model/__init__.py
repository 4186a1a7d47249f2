"""What learns: backbones, heads and MixModel. Nothing here knows of ranks or processes."""
