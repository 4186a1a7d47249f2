"""The loaders that mixdist is measured beside, a module each, all with the same two kinds of functions.

``WAY(source, task, workers, epochs)`` yields (images, labels) over and over: batches of `BATCH` shuffled samples, uint8
for the task "decode" and float32, normalised, for "augment". ``workers`` is the number of cores: on one core a loader
runs in the calling process, which is its fastest way there, on more it starts as many worker processes (or threads).
``prepare(packed, out)`` writes the loader's own format from a packed set into an empty folder.
"""
