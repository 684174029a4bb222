"""Mean and standard deviation of tensors that come one after the other."""

from __future__ import annotations

import torch


class Moments:
    """Running mean and standard deviation of tensors of one shape, element by element (Welford, Technometrics 4, 1962).

    Args:
        spread: whether the standard deviation (of the population: divided by the number of tensors) is wanted.
    """

    def __init__(self, spread: bool) -> None:
        self.spread = spread
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)  # sum of squared distances from the mean

    def add(self, values: torch.Tensor) -> None:
        """Takes in a tensor, in float32 at least."""
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        self.count += 1
        if self.count == 1:
            self.mean = values.clone()
            self._squares = torch.zeros_like(values) if self.spread else self._squares
            return
        distance = values - self.mean
        self.mean += distance / self.count
        if self.spread:
            self._squares += distance.mul_(values - self.mean)

    def result(self, dim: int = 1) -> torch.Tensor:
        """The mean, with the standard deviation joined along an axis where it is wanted."""
        if not self.spread:
            return self.mean
        return torch.cat((self.mean, (self._squares / self.count).sqrt_()), dim=dim)
