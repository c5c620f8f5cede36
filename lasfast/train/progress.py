"""What a trainer says after every batch."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training is, and how it goes. `loss`, `accuracy` are as of the last reading (see `Trainer`).

    A step is the training before one round of candidates; step 0 is the warm-up, and the whole of a
    stand-alone training. Loss and accuracy are means over the epoch so far, over the newest candidates (in
    the warm-up: the deepest), in training mode on augmented images; NaN before the first reading.
    """

    step: int
    epoch: int  # from 0
    epochs: int  # in this step
    batch: int  # from 0, in this epoch; this batch is done
    batches: int  # in an epoch
    learning_rate: float
    loss: float
    accuracy: float  # 0 to 1
    images_per_second: float  # training images; each counts once however many sub-networks it trains
    seconds: float  # since this call of train() began

    @property
    def done(self) -> int:
        """Batches done in this step, this one included."""
        return self.epoch * self.batches + self.batch + 1

    @property
    def total(self) -> int:
        """Batches in this step."""
        return self.epochs * self.batches

    @property
    def last_of_epoch(self) -> bool:
        """Whether the epoch ends with this batch."""
        return self.batch + 1 == self.batches
