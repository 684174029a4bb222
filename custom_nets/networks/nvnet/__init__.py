"""NvNet: SegResNet with a variational branch in training."""
