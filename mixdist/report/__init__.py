"""What came out: runs collected into a table, plots, one HTML page and Markdown."""
