"""What comes of a finished run: its model in other programs' layouts, its predictions, and its accuracy."""
