"""Hypothesis without its time limit for one example, which a busy machine breaks at random."""

from hypothesis import settings

settings.register_profile("mixdist", deadline=None)
settings.load_profile("mixdist")
