"""Export of networks to ONNX and TorchScript."""
