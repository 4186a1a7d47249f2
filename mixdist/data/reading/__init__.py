"""From sample ids to uint8 images: the reader, the worker processes that run it, and their pool.

Nothing here but the pool's owner imports torch: a worker is a Python with NumPy and a JPEG decoder, about 60 MB.
"""
