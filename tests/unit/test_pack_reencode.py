"""--resize, --quality and --keep-bytes: what is stored, that training sees the same, and the same bytes each time."""

import io
import json

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import packed, pixels, run
from PIL import Image

from mixdist.cli import main
from mixdist.data.decode import decode, fit
from mixdist.data.packing.reencode import Encoding, reencode
from mixdist.errors import DataError, UserError

FORMATS = {"jpg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}
ORIENTATION = 0x0112


def smooth(height, width):
    """Return an image without sharp edges, which JPEG stores closely; uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(3 * x + 2 * y), np.cos(4 * y - x), np.sin(2 * x * y + 1)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def encoded(image, suffix, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG" if suffix == "jpg" else suffix, **{**FORMATS[suffix], **options})
    return file.getvalue()


def written(folder, **contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


def stored(found, split="train"):
    """Return the bytes of each image by member name."""
    part = found.split(split)
    shards = [str(part.folder / shard.name) for shard in part.shards]
    samples = webdataset.WebDataset(shards, shardshuffle=False)
    return {f"{each['__key__']}.{e}": each[e] for each in samples for e in FORMATS if e in each}


# --resize


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    side=st.integers(1, 60),
    suffix=st.sampled_from(["png", "webp"]),
)
def test_training_sees_a_resized_image_as_it_would_see_the_original(height, width, side, suffix):
    original = pixels("any", height, width)
    content, extension = reencode(encoded(original, suffix), suffix, Encoding(resize=side))
    image = decode(content)
    assert extension == suffix
    np.testing.assert_array_equal(fit(image, side), fit(original, side))
    assert min(image.shape[:2]) == min(side, height, width)


def test_the_aspect_is_kept(tmp_path):
    source = written(tmp_path / "source", wide_png=encoded(pixels("a", 40, 100), "png"))
    row = packed(source, tmp_path / "set", encoding=Encoding(resize=20)).split("train").index[0]
    assert (row["height"], row["width"]) == (20, 50)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_keeps_its_own_format(suffix):
    original = smooth(64, 48)
    content, extension = reencode(encoded(original, suffix), suffix, Encoding(resize=24))
    with Image.open(io.BytesIO(content)) as image:
        assert (extension, image.format, image.size) == (
            suffix,
            "JPEG" if suffix == "jpg" else suffix.upper(),
            (24, 32),
        )
    expected = np.asarray(Image.fromarray(original).resize((24, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(decode(content), expected, atol=0 if suffix != "jpg" else 5)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("side", [32, 33, 500])
def test_an_image_that_is_no_larger_keeps_its_bytes(suffix, side):
    content = encoded(smooth(32, 40), suffix)
    assert reencode(content, suffix, Encoding(resize=side)) == (content, suffix)


def test_other_formats_are_resized_as_png(tmp_path):
    (tmp_path / "source").mkdir()
    Image.fromarray(pixels("x", 20, 20)).save(tmp_path / "source/x.bmp")
    found = packed(tmp_path / "source", tmp_path / "set", encoding=Encoding(resize=10))
    np.testing.assert_array_equal(decode(stored(found)["x.png"]), fit(pixels("x", 20, 20), 10))


# --quality


def test_a_quality_makes_jpegs_of_all_formats(tmp_path):
    contents = {f"{suffix}_{suffix}": encoded(smooth(32, 32), suffix) for suffix in FORMATS}
    found = packed(written(tmp_path / "source", **contents), tmp_path / "set", encoding=Encoding(quality=90))
    assert set(stored(found)) == {"jpg.jpg", "png.jpg", "webp.jpg"}
    for content in stored(found).values():
        np.testing.assert_allclose(decode(content).astype(int), smooth(32, 32), atol=8)


def test_a_lower_quality_takes_fewer_bytes_and_is_the_one_asked_for():
    content = encoded(pixels("noise", 64, 64), "png")
    low, high = (reencode(content, "png", Encoding(quality=quality))[0] for quality in (40, 90))
    assert len(low) < len(high) < len(content)
    tables = [Image.open(io.BytesIO(each)).quantization[0] for each in (low, high)]
    expected = [Image.open(io.BytesIO(encoded(pixels("x"), "jpg", quality=q))).quantization[0] for q in (40, 90)]
    assert tables == expected


def test_resize_alone_stores_jpegs_at_95_and_a_quality_beside_it_makes_jpegs_of_all():
    jpeg, png = (encoded(smooth(64, 64), suffix) for suffix in ("jpg", "png"))
    assert reencode(jpeg, "jpg", Encoding(resize=32)) == reencode(jpeg, "jpg", Encoding(resize=32, quality=95))
    assert reencode(png, "png", Encoding(resize=32, quality=95))[1] == "jpg"


def test_colour_is_stored_at_full_resolution():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255  # columns of red and blue: halved colour would make them all purple
    image = decode(reencode(encoded(stripes, "png"), "png", Encoding(quality=95))[0])
    np.testing.assert_allclose(image.astype(int), stripes, atol=40)


@pytest.mark.parametrize("encoding", [Encoding(resize=16), Encoding(quality=95), Encoding(resize=16, quality=95)])
@pytest.mark.parametrize("suffix", FORMATS)
def test_gray_stays_gray(suffix, encoding):
    gray = np.repeat(smooth(32, 32)[..., :1], 3, axis=-1)
    content, extension = reencode(encoded(gray, suffix), suffix, encoding)
    assert (decode(content) == decode(content)[..., :1]).all()
    if extension != "webp":  # which has no grayscale
        with Image.open(io.BytesIO(content)) as image:
            assert image.mode == "L"


# EXIF orientation, alpha


def test_an_orientation_is_kept_with_the_bytes_and_not_applied_or_kept_when_re_encoded(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # "turn by 90 degrees to see it upright"
    content = encoded(smooth(30, 60), "jpg", exif=exif)
    source = written(tmp_path / "source", a_jpg=content)
    kept = stored(packed(source, tmp_path / "kept"))["a.jpg"]
    smaller = stored(packed(source, tmp_path / "smaller", encoding=Encoding(resize=15)))["a.jpg"]
    assert kept == content
    with Image.open(io.BytesIO(smaller)) as image:
        assert (image.size, image.getexif().get(ORIENTATION)) == ((30, 15), None)
    # What training sees is the same picture either way: not turned.
    np.testing.assert_allclose(fit(decode(smaller), 15).astype(int), fit(decode(kept), 15), atol=5)


def test_what_is_re_encoded_is_what_training_sees_of_transparent_and_16_bit_images():
    clear = np.dstack([pixels("a", 20, 20), np.zeros((20, 20), np.uint8)])
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20) * 150
    for original in (encoded(clear, "png"), encoded(deep, "png")):
        content, _ = reencode(original, "png", Encoding(resize=10))
        np.testing.assert_array_equal(decode(content), fit(decode(original), 10))


# The set and the command line


def test_index_statistics_and_options_are_those_of_what_is_stored(tmp_path):
    contents = {f"{row}_jpg": encoded(pixels(str(row), 40, 40), "jpg") for row in range(4)}
    found = packed(written(tmp_path / "source", **contents), tmp_path / "set", encoding=Encoding(resize=8, quality=50))
    images = np.stack([decode(content) for content in stored(found).values()]) / 255
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2)), rtol=1e-12)
    assert found.image_size == (8, 8)
    options = json.loads((tmp_path / "set/manifest.json").read_text())["options"]
    assert (options["resize"], options["quality"]) == (8, 50)


@settings(max_examples=10, deadline=None)
@given(
    resize=st.none() | st.integers(1, 40),
    quality=st.none() | st.integers(1, 100),
    shard_bytes=st.none() | st.integers(10_240, 60_000),
    workers=st.integers(2, 5),
    listed=st.booleans(),
)
def test_any_number_of_workers_gives_the_same_bytes(tmp_path_factory, resize, quality, shard_bytes, workers, listed):
    folder = tmp_path_factory.mktemp("sets")
    contents = {
        f"{suffix}{row}_{suffix}": encoded(pixels(f"{row}", 8 + row, 30), suffix)
        for suffix in FORMATS
        for row in range(6)
    }
    source = written(folder / "source", **contents)
    if listed:
        rows = [f"{name.replace('_', '.')},{row % 3 or ''}" for row, name in enumerate(contents)]
        (source / "list.csv").write_text("\n".join(["path,label", *rows]))
        source = source / "list.csv"
    options = {"encoding": Encoding(resize, quality), "shard_bytes": shard_bytes}
    for each in (1, workers):
        run(source, folder / str(each), workers=each, **options)
    one, several = ({path.name: path.read_bytes() for path in (folder / str(n)).iterdir()} for n in (1, workers))
    assert one == several


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (Encoding(resize=0), "--resize 0 is out of range; it should be 1 or more pixels"),
        (Encoding(quality=0), "--quality 0 is out of range; it should be 1 to 100"),
        (Encoding(quality=101), "--quality 101 is out of range"),
        (Encoding(resize=8, keep_bytes=True), "--keep-bytes contradicts --resize 8, which re-encodes"),
        (Encoding(quality=8, keep_bytes=True), "--keep-bytes contradicts --quality 8"),
    ],
)
def test_encodings_that_cannot_be_met_are_refused(tmp_path, encoding, message):
    with pytest.raises(UserError, match=message):
        run("digits", tmp_path / "set", encoding=encoding)
    assert not list(tmp_path.iterdir())


def test_a_broken_image_is_named_when_re_encoding_too(tmp_path):
    source = written(tmp_path / "source", a_jpg=encoded(smooth(30, 30), "jpg")[:200])
    with pytest.raises(DataError, match=r"image .*a\.jpg cannot be read: "):
        run(source, tmp_path / "set", encoding=Encoding(resize=8))


def test_what_a_user_types_re_encodes_or_keeps(tmp_path, capsys):
    content = encoded(smooth(64, 64), "jpg")
    source = written(tmp_path / "source", a_jpg=content)
    assert main(["pack", str(source), str(tmp_path / "kept"), "--keep-bytes"]) == 0
    assert content in (tmp_path / "kept/train-000000.tar").read_bytes()
    assert main(["pack", str(source), str(tmp_path / "small"), "--resize", "16", "--quality", "80"]) == 0
    assert "images of 16 x 16 pixels" in capsys.readouterr().out
    assert main(["pack", str(source), str(tmp_path / "none"), "--resize", "16", "--keep-bytes"]) == 2
    assert capsys.readouterr().err.startswith("mixdist: error: --keep-bytes contradicts --resize 16")
