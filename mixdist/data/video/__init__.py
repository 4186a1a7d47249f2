"""Video clips: found out about and decoded by the ffmpeg program, in bounded processes that cannot reach elsewhere."""
