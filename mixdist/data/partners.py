"""Partners: the images that others are mixed with, and which of them each visit of an epoch gets."""

from __future__ import annotations

from dataclasses import dataclass

from mixdist.data.approach import Approach, at_hand
from mixdist.data.images import Images
from mixdist.data.mixing import draw_partners
from mixdist.data.order import Order
from mixdist.keyed import Ids


@dataclass(frozen=True)
class Partners:
    """What images are mixed with: D_ssl in the mix phase (Eq. 2), or D_sl itself in SL (mixup)."""

    images: Images
    order: Order  #: of the candidates, keyed as the stream's, so that of one set both are at the same shards
    mixup: float = 0.0  #: both parameters of the Beta distribution of λ; 0: by λ of Eq. 2, without a second target
    approach: Approach = at_hand

    def draw(self, epoch: int, visits: Ids) -> Ids:
        """Return the partner of each of an epoch's ``visits``, which are all of them and in their order.

        Any candidate, where the order is a permutation of all samples. Where shards are shuffled, one of the window
        that stands at the same place among the candidates, so that partners too need a bounded number of shards.
        """
        candidates, begins = self.order.windows(epoch)
        purpose = "mixup" if self.mixup else "partner"
        return draw_partners(self.order.seed, epoch, visits, candidates, purpose, begins)
