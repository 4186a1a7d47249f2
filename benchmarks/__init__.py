"""Commands that measure or attack mixdist; each prints what it did and with which seed."""
