"""Which locations are remote, lists of shards, and URLs without their secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdist.data.remote import urls
from mixdist.data.remote.urls import base_name, expand, is_remote, join, redact, scrub
from mixdist.errors import UserError


@pytest.mark.parametrize("url", ["https://h/set", "http://h", "s3://b/k", "gs://b/k", "hf://datasets/o/n", "HTTPS://h"])
def test_urls_of_the_allowed_schemes_are_remote(url):
    assert is_remote(url)


@pytest.mark.parametrize("path", ["data/set", "/data/set", "./a:b/c", "set-000000.tar", "", "a/b://c"])
def test_paths_are_local(path):
    assert not is_remote(path)


@pytest.mark.parametrize(
    "location",
    ["pipe:touch x", "pipe:cat https://h/a.tar", "file:///etc/passwd", "file:/etc", "ftp://h/a", "sh:ls", "PIPE:ls"],
)
def test_other_schemes_are_refused(location):
    with pytest.raises(UserError, match=r"has the scheme '\w+:', which is not read"):
        is_remote(location)
    with pytest.raises(UserError, match="which is not read"):
        expand(f"a.tar::{location}")


def test_no_file_systems_are_chained():
    with pytest.raises(UserError, match="has the scheme 'simplecache:', which is not read"):
        is_remote("simplecache::s3://b/k")


def test_a_scheme_without_slashes_says_what_is_missing():
    with pytest.raises(UserError, match=r"should begin with https:// \(two slashes\)"):
        is_remote("https:/host/set")


def test_braces_and_lists_expand_as_webdataset_has_it():
    assert expand("https://h/s-{000009..000011}.tar::b.tar") == [
        "https://h/s-000009.tar",
        "https://h/s-000010.tar",
        "https://h/s-000011.tar",
        "b.tar",
    ]
    assert expand("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]


def test_a_list_that_cannot_be_expanded_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"unbalanced braces; write name-\{000000\.\.000011\}\.tar"):
        expand("s3://b/s-{0..3.tar")
    with pytest.raises(UserError, match="have an empty part"):
        expand("a.tar::")
    monkeypatch.setattr(urls, "MAX_URLS", 100)
    assert len(expand("{1..100}")) == len(expand("{1..10}{1..10}")) == 100
    with pytest.raises(UserError, match="are more than 100"):
        expand("{1..11}{1..10}")
    with pytest.raises(UserError, match="are more than 100"):
        expand("{1..99}::{0..99999999999}")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://h/set", "https://h/set/a%20b.tar"),
        ("https://h/set/?sig=1", "https://h/set/a%20b.tar?sig=1"),
        ("s3://bucket", "s3://bucket/a b.tar"),
        ("s3://bucket/set", "s3://bucket/set/a b.tar"),
    ],
)
def test_a_file_is_named_below_its_folder(location, expected):
    assert join(location, "a b.tar") == expected


def test_a_url_is_shown_without_its_secrets():
    assert redact("https://user:secret@h:1/a.tar?token=secret#secret") == "https://h:1/a.tar"
    assert redact("s3://bucket/a.tar") == "s3://bucket/a.tar"
    assert "secret" not in redact("https://[bad?secret")
    assert scrub("GET https://u:p@h/a?t=1 failed, see s3://b/k?t=1") == "GET https://h/a failed, see s3://b/k"


@given(st.text(max_size=200))
def test_a_cached_name_is_safe(path):
    name = base_name(f"https://host/{path}")
    assert len(name) <= 80
    assert all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in name)
