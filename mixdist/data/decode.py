"""Encoded bytes -> uint8 RGB image: simplejpeg for JPEG (four times as fast as Pillow on small ones), else Pillow.

Images of another size than asked are brought to a square by scaling the shorter side (antialiased bicubic) and
cropping the centre, so a set of one size, which packing keeps as it is, is never resampled.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # a 7,000 x 7,000 photograph passes, a decompression bomb does not
FORMATS = ("JPEG", "PNG", "WEBP")

# Pillow's own bomb warning: the limit here is stricter. A filter for good, as catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(content: bytes | memoryview) -> npt.NDArray[np.uint8]:
    """Decode a JPEG, PNG or WebP image to RGB; grayscale, palette and alpha images are converted.

    Returns:
        uint8 array of shape [height, width, 3].

    Raises:
        ValueError: not an image of these formats, broken, or over ``MAX_PIXELS``.
    """
    if simplejpeg.is_jpeg(content):
        return _decode_jpeg(content)
    return _decode_pillow(content)


def _decode_jpeg(content: bytes | memoryview) -> npt.NDArray[np.uint8]:
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
    refuse_bomb(height, width)
    if colorspace in ("CMYK", "YCCK"):  # libjpeg-turbo does not convert these to RGB
        return _decode_pillow(content)
    image: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB")
    return image


def _decode_pillow(content: bytes | memoryview) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            refuse_bomb(image.height, image.width)
            if image.mode.startswith("I"):  # 16-bit gray: keep the high byte, as Pillow does for 16-bit colour;
                high = (np.asarray(image) >> 8).astype(np.uint8)  # its own convert() would clip all above 255 to white
                return np.stack([high] * 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError("not a JPEG, PNG or WebP image") from error
    except Exception as error:  # Pillow's readers raise a dozen types on broken files
        raise ValueError(str(error) or type(error).__name__) from error


def refuse_bomb(height: int, width: int) -> None:
    """Raise ``ValueError`` where an image of this size is over ``MAX_PIXELS``."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are over the limit of {MAX_PIXELS}")


def fit(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Bring an image [height, width, 3] to [size, size, 3]; one that has this size is returned as it is.

    Raises:
        ValueError: so long and thin that its scaled strip would be over ``MAX_PIXELS``.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    scale = size / min(height, width)
    scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
    refuse_bomb(scaled[1], scaled[0])  # 1 x 50,000 pixels at 224 would take 7.5 GB
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    resized = Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
