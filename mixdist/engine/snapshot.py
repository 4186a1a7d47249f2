"""Pictures of what the reconstruction head makes of a few fixed images, to look at."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mixdist.data.batch import Batch
from mixdist.data.open import Feed
from mixdist.data.opener import SHOWN
from mixdist.data.reading.reader import CENTRE
from mixdist.engine.precision import Precision
from mixdist.engine.update import mask_noise
from mixdist.model.mixmodel import MixModel

SHOWN_SIZE = 64  # pixels an image is enlarged to at least, without smoothing
GAP = 2


@torch.no_grad()
def reconstruction_png(model: MixModel, feed: Feed, precision: Precision, mask_input: bool = False) -> bytes:
    """Return a PNG with a column an image: the original, what was masked (MAE only), the reconstruction.

    The images are the first of the test split, or of the training set where there is none; the mask is drawn with
    the run's seed. Known patches of an MAE reconstruction are shown as they are: the loss does not train them.
    ``mask_input`` as in `MixModel.forward`: where the mask lay when R was last trained.
    """
    source = feed.test or next(iter(feed.train.values()))
    prepare = source.prepare
    ids = (feed.test.ids if feed.test else next(iter(feed.train.values())).order.ids)[:SHOWN]
    device = prepare.own.mean.device
    asked = source.images.ask(ids, CENTRE)
    images = asked.wait().images[:: source.images.frames].to(device, copy=True)
    asked.hand_back()
    nothing = torch.zeros(len(ids), device=device)
    still = type(prepare)(prepare.seed, "none", prepare.own, prepare.partner, prepare.input_ratio)
    batch = Batch(images, nothing.long(), nothing, ids, epoch=0)
    inputs = still(batch).images
    noise = mask_noise(prepare.seed, batch, model.reconstructor.noise_width, device)
    model.eval()
    with precision.autocast():
        outputs = model(inputs, reconstruct=True, classify=False, noise=noise, mask_input=mask_input)
    model.train()
    assert outputs.reconstruction is not None
    assert outputs.where is not None
    scale, shift = prepare.own.std[:, None, None], prepare.own.mean[:, None, None]
    original, rebuilt = (x.float() * scale + shift for x in (inputs, outputs.reconstruction))
    rows = [original, torch.where(outputs.where, rebuilt, original)]
    if not outputs.where.all():
        rows.insert(1, torch.where(outputs.where, torch.full_like(original, 0.5), original))
    return _to_png(torch.stack(rows).clamp(0, 1).mul(255).round().byte().cpu().numpy())


def _to_png(images: npt.NDArray[np.uint8]) -> bytes:
    """Lay [rows, columns, 3, S, S] out on white, enlarged by a whole factor."""
    factor = -(-SHOWN_SIZE // images.shape[-1])
    cells = images.transpose(0, 1, 3, 4, 2).repeat(factor, axis=2).repeat(factor, axis=3)
    framed = np.pad(cells, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    rows, columns, height, width, _ = framed.shape
    page = framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, "PNG")
    return buffer.getvalue()
