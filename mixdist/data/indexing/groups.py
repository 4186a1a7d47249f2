"""The members of one shard, grouped into samples by webdataset's rule, and what is wrong with a group."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mixdist.data.faults import Fault
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.packing.folders import VIDEO_SUFFIXES
from mixdist.data.tar import Member, members, padded
from mixdist.errors import DataError

IMAGE, CLIP = "image", "clip"
IMAGES = ("jpg", "jpeg", "png", "webp")
CLIPS = tuple(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)

# webdataset's rule: the key ends at the first dot of the file's name, folders belong to it; names that begin with a
# dot, or lie between double underscores, are no samples.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__(\.[^/]*)?")


@dataclass(slots=True)
class Group:
    """The members that stand side by side under one key."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)  #: by lower-case extension
    repeated: str | None = None  #: an extension that came twice


@dataclass(slots=True)
class Found:
    """A sample whose content and label member are known; neither is read yet."""

    key: str
    content: Member
    clip: bool  #: a video clip, not an image
    label: Member | None


@dataclass
class Listing:
    """What one shard holds; every group is a sample or a fault."""

    samples: list[Found] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  #: members that are never opened, by extension
    broken: Fault | None = None  #: why the rest of the shard cannot be read
    unclosed: bool = False  #: nothing follows the last member: perhaps cut off just there


def list_shard(path: Path, name: str, options: IndexOptions) -> Listing:
    """Read the headers of a shard and sort its groups out; no content is read."""
    listing = Listing()
    groups = _groups(path, name, listing)
    _refuse_repetitions(groups, name, listing)
    for group in groups:
        if group.repeated is None:
            _sort(group, name, options, listing)
    return listing


def _groups(path: Path, name: str, listing: Listing) -> list[Group]:
    groups: list[Group] = []
    end = 0
    try:
        for member in members(path):
            end = member.offset + padded(member.size)
            match = _NAME.fullmatch(member.name)
            if match is None or _META.fullmatch(member.name):
                listing.left_out["no sample's name"] += 1
                continue
            key, extension = match[1], match[2].lower()
            if not groups or groups[-1].key != key:
                groups.append(Group(key))
            if extension in groups[-1].members:
                groups[-1].repeated = extension
            groups[-1].members[extension] = member
        listing.unclosed = path.stat().st_size == end
    except DataError as error:
        listing.broken = Fault("unreadable shard", name, str(error))
        if groups:  # its label may lie in what cannot be read
            key = groups.pop().key
            listing.faults.append(Fault("cut off by an unreadable shard", name, f"sample {key!a} may be incomplete"))
    return groups


def _refuse_repetitions(groups: list[Group], name: str, listing: Listing) -> None:
    """Mark what stands under one key in more than one place: pieces of a sample, or samples of one name."""
    places: dict[str, list[Group]] = {}
    for group in groups:
        places.setdefault(group.key, []).append(group)
    for key, found in places.items():
        extensions = [extension for group in found for extension in group.members]
        doubled = len(set(extensions)) < len(extensions)
        if len(found) > 1 and not doubled:
            for group in found:
                group.repeated = ""
            message = f"the members of sample {key!a} do not stand side by side"
            listing.faults += [Fault("interleaved members", name, message)] * len(found)
            continue
        for group in found[1:]:
            group.repeated = ""
            listing.faults.append(Fault("doubled key", name, f"there is a sample {key!a} already"))
        if found[0].repeated is not None:
            message = f"sample {key!a} has two members .{found[0].repeated}"
            listing.faults.append(Fault("doubled key", name, message))


def _sort(group: Group, name: str, options: IndexOptions, listing: Listing) -> None:
    what, offered = _offered(group, options)
    label = group.members.get(options.label_extension)
    used = {*offered, options.label_extension} if offered else set()
    listing.left_out.update(_last(extension) for extension in group.members if extension not in used)
    if len(offered) > 1:
        message = f"sample {group.key!a} has the {what}s {', '.join(offered)}; choose one with --image EXT"
        listing.faults.append(Fault(f"several {what}s", name, message))
    elif offered and not group.members[offered[0]].size:
        message = f"the .{offered[0]} of sample {group.key!a} has no content"
        listing.faults.append(Fault(f"empty {what}", name, message))
    elif offered:
        listing.samples.append(Found(group.key, group.members[offered[0]], what == CLIP, label))
    else:
        wanted = " ".join(f".{extension}" for extension in ([options.image] if options.image else (*IMAGES, *CLIPS)))
        message = f"sample {group.key!a} has no image or clip ({wanted}), only {_few(group.members)}"
        listing.faults.append(Fault("no image or clip", name, message))


def _offered(group: Group, options: IndexOptions) -> tuple[str, list[str]]:
    """Return "image" or "clip", and the members that a sample may be of that kind; a clip only where no image is."""
    if options.image is not None:
        chosen = options.image.lower().lstrip(".")
        return CLIP if _last(chosen) in CLIPS else IMAGE, [chosen] if chosen in group.members else []
    images, clips = ([each for each in group.members if _last(each) in known] for known in (IMAGES, CLIPS))
    return (CLIP, clips) if clips and not images else (IMAGE, images)


def _last(extension: str) -> str:
    """Return "png" of "left.png"; what a hostile name makes of an extension is cut short."""
    return ascii(extension.rsplit(".", 1)[-1][:12])[1:-1]


def _few(extensions: dict[str, Member]) -> str:
    return ", ".join(f".{ascii(extension[:12])[1:-1]}" for extension in list(extensions)[:5])
