"""Shards that lie elsewhere: URLs, a bounded cache on the node, verified downloads, and tars without an index."""
