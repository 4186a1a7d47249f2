"""One image of a source -> the bytes that a shard stores: proven to decode, with its size and channel sums."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from mixdist.data.decode import decode, refuse_bomb
from mixdist.data.packing.folders import Sample
from mixdist.data.packing.reencode import Encoding, reencode
from mixdist.data.packing.unusable import ADVICE
from mixdist.errors import DataError

KEPT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")  # what PNG stores without loss
MAX_SIDE = 2**16 - 1  # the index holds heights and widths as uint16
MAX_BYTES = 2**32 - 1  # and sizes as uint32
EXIF_HEAD = 2**16  # bytes of a JPEG that hold its first segment, where EXIF data stands


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a shard stores of one sample, and what the index and the manifest say of it."""

    content: bytes
    extension: str  #: "jpg", "png" or "webp", by content
    height: int  #: pixels
    width: int
    sums: npt.NDArray[np.uint64]  #: sums of the values and of their squares by channel, shape [2, 3]
    metadata: bytes | None = None
    frames: int = 1  #: of a video clip; 1 for a still image
    milliseconds: int = 0  #: length of a video clip; 0 for a still image
    measured: int = 1  #: frames that ``sums`` covers
    turned: bool = False  #: the source has an EXIF orientation that says to turn or mirror it


def encode(sample: Sample, encoding: Encoding) -> Encoded:
    """Read a sample, re-encode what is neither JPEG, PNG nor WebP as PNG or what ``encoding`` asks, and decode it.

    Raises:
        DataError: the image or its .json file cannot be read; the message names it.
    """
    try:
        content = Path(sample.path).read_bytes() if sample.content is None else sample.content()
        if not content:
            raise ValueError("the file is empty")
        extension = image_type(content)
        if extension is None:
            content, extension = _as_png(content), "png"
        encoded = examine(reencode(content, extension, encoding)[0])
    except (OSError, ValueError) as error:
        raise DataError(f"{sample.origin}image {sample.path} cannot be read: {error}{ADVICE}") from error
    return replace(encoded, metadata=read_metadata(sample.metadata), turned=_is_turned(content))


def examine(content: bytes) -> Encoded:
    """Decode the bytes of a JPEG, PNG or WebP image once, and say what index and manifest hold of it.

    Raises:
        ValueError: it is not such an image, broken, or larger than the index can hold.
    """
    extension = image_type(content)
    if extension is None:
        raise ValueError("not a JPEG, PNG or WebP image")
    image = decode(content)
    height, width, _ = image.shape
    if max(height, width) > MAX_SIDE or len(content) > MAX_BYTES:
        raise ValueError(f"{width} x {height} pixels in {len(content)} bytes are more than the index can hold")
    return Encoded(content, extension, height, width, channel_sums(image))


def channel_sums(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return the sums of an image's values and of their squares by channel, shape [2, 3]."""
    squares = np.square(image, dtype=np.uint32)
    return np.stack([values.sum(axis=(0, 1), dtype=np.uint64) for values in (image, squares)])


def image_type(content: bytes) -> str | None:
    """Return "jpg", "png" or "webp" by the first bytes, None for anything else."""
    if content.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def _is_turned(content: bytes) -> bool:
    """Tell whether a JPEG, PNG or WebP image has an EXIF orientation other than upright; few have EXIF data at all."""
    if image_type(content) == "jpg" and b"Exif\0\0" not in content[:EXIF_HEAD]:
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            return "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # as above; the image itself has been decoded
        return False


def _as_png(content: bytes) -> bytes:
    """Re-encode the first frame without loss; CMYK and the like become RGB, which is what training sees."""
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content), formats=("BMP", "GIF", "PPM", "TIFF")) as image:
            refuse_bomb(image.height, image.width)
            if image.mode[0] in "IF" and image.mode not in KEPT_MODES:  # convert() would clip, not scale, these
                raise ValueError(f"pixels of 32 bits (mode {image.mode}); convert it to 8 bits a channel")
            kept = image if image.mode in KEPT_MODES else image.convert("RGB")
            kept.save(file, "PNG")
    except UnidentifiedImageError as error:
        raise ValueError("its content is not a JPEG, PNG, WebP, BMP, TIFF, GIF, PPM or PGM image") from error
    except Exception as error:  # Pillow's readers of these formats raise a dozen types on broken files
        raise ValueError(str(error)) from error
    return file.getvalue()


def read_metadata(path: str | None) -> bytes | None:
    """Return the bytes of a .json file, where there is one.

    Raises:
        DataError: it is not JSON.
    """
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
        json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}){ADVICE}") from error
    return content
