"""Task: what a run's images and labels are, as task.json of its folder keeps it: enough to serve it without its set."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mixdist.data.index import PackedSet

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class Task(BaseModel):
    """The supervised task of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]  #: names by class number
    image_size: Annotated[int, Field(ge=1)]  #: pixels of a side of the square that the model sees
    mean: tuple[Mean, Mean, Mean]  #: of R, G and B in 0 to 1, subtracted from the pixels
    std: tuple[Deviation, Deviation, Deviation]  #: what they are divided by then
    data: str  #: name of the packed set
    fingerprint: str  #: of the packed set, wherever it lies

    @staticmethod
    def of(packed: PackedSet, image_size: int) -> Task:
        """Describe what training on a set at a size learns; a channel that never varies keeps its scale."""
        red, green, blue = packed.mean
        deviations = tuple(value or 1.0 for value in packed.std)
        return Task(
            classes=packed.classes,
            image_size=image_size,
            mean=(red, green, blue),
            std=(deviations[0], deviations[1], deviations[2]),
            data=packed.folder.name,
            fingerprint=packed.fingerprint,
        )
