"""The subcommands of `mixdist` that deal with data: each module reads its arguments and calls the room."""
