"""Decoding: every input gives an RGB image or a ValueError."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mixdist.data import decode as module
from mixdist.data.decode import decode

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


WHOLE = {form: encoded(Image.fromarray(RGB), form) for form in ("JPEG", "PNG", "WEBP")}


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_lossless_formats_decode_to_the_pixels_stored(form):
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(RGB), form, **options)), RGB)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_decodes_as_pillow_decodes_it(mode):
    content = encoded(Image.fromarray(RGB).convert(mode), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode(content) - expected).max() <= 2  # two builds of libjpeg may round differently


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_png_mode_becomes_rgb(mode):
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(decode(encoded(image)), np.asarray(image.convert("RGB")))


def test_a_16_bit_grayscale_png_keeps_its_high_byte():
    values = np.arange(0, 2**16, 2**8 + 1, dtype=np.uint16).reshape(16, 16)
    decoded = decode(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(decoded, np.stack([values >> 8] * 3, axis=-1))


@pytest.mark.parametrize("form", WHOLE)
def test_a_truncated_image_is_refused(form):
    with pytest.raises(ValueError, match=r"."):
        decode(WHOLE[form][: len(WHOLE[form]) * 2 // 3])


@pytest.mark.parametrize("content", [b"", b"hello", encoded(Image.fromarray(RGB), "BMP")])
def test_other_content_is_refused_by_name(content):
    with pytest.raises(ValueError, match="not a JPEG, PNG or WebP image"):
        decode(content)


@pytest.mark.parametrize("form", WHOLE)
def test_an_image_over_the_limit_is_refused_before_it_is_decoded(form, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 34)
    with pytest.raises(ValueError, match="7 x 5 pixels are over the limit of 34"):
        decode(WHOLE[form])


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6))
def test_damaged_bytes_give_an_image_or_a_value_error(form, damage):
    content = bytearray(WHOLE[form])
    for place, value in damage:
        content[place % len(content)] = value
    try:
        image = decode(bytes(content))
    except ValueError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


def test_decoding_never_touches_the_warning_filters(monkeypatch):
    # They belong to the whole process: a thread that saves and restores them undoes what another has set.
    before, during = list(warnings.filters), []
    original = Image.Image.convert

    def watched(image, mode):
        during.append(list(warnings.filters))
        return original(image, mode)

    monkeypatch.setattr(Image.Image, "convert", watched)
    decode(WHOLE["PNG"])
    assert during == [before]
