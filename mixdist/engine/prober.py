"""The online probe: features of labelled images as the model has them now, from all ranks, and what they are worth.

Training does not notice: no gradient is made, and running statistics, random numbers and the mode are put back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mixdist.data.stream import TestStream
from mixdist.engine.precision import Precision
from mixdist.engine.probes import Findings, probe
from mixdist.engine.strategy import Strategy, average_buffers
from mixdist.engine.turns import Asked, nobody, turns
from mixdist.engine.untouched import untouched
from mixdist.errors import DataError
from mixdist.model.mixmodel import MixModel


@dataclass(frozen=True)
class Prober:
    """Probes one model on two streams of the same set."""

    model: MixModel  #: whole, on the device
    train: TestStream  #: labelled training images, as they are stored
    test: TestStream
    precision: Precision

    @torch.no_grad()
    def __call__(self, strategy: Strategy, asked: Asked = nobody) -> Findings:
        """Probe the weights as they are trained, not their average; all ranks call it together, and get the same.

        Raises:
            DataError: no training or no test image can be read.
            LeftOff: on all ranks, where one was asked to stop.
        """
        world = self.test.world
        strategy.mirror()
        with untouched(self.model, world.device):
            average_buffers(self.model, world)
            self.model.eval()
            train, test = self._features(self.train, asked), self._features(self.test, asked)
            return probe(*train, *test, self.model.classifier.out_features)

    def _features(self, stream: TestStream, asked: Asked = nobody) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pooled features float32 [N, D] and labels int64 [N] of all images that can be read, in their order.

        A batch is one rank's, whatever their number, and zeros are added to it: features are the same to the bit.
        """
        world, backbone = stream.world, self.model.backbone
        features = torch.zeros(len(stream.ids), backbone.pooled_dim + 1, device=world.device)
        places = {int(sample): place for place, sample in enumerate(stream.ids)}
        for batch in turns(stream, asked):
            inputs = stream.prepare(batch)
            with self.precision.autocast():
                pooled = backbone.pool(backbone(inputs.images))
            pooled = pooled.float().reshape(len(inputs.labels), -1, backbone.pooled_dim).mean(1)  # of a clip's frames
            rows = torch.tensor([places[int(sample)] for sample in batch.ids], device=world.device)
            features[rows] = torch.cat([pooled, inputs.weight[:, None]], dim=1)
        features = world.sum(features)
        readable = features[:, -1] > 0
        if not bool(readable.any()):
            raise DataError("none of the images that features are probed on can be read").everywhere()
        labels = torch.from_numpy(stream.labels[stream.ids].astype("int64")).to(world.device)
        return features[readable, :-1], labels[readable]
