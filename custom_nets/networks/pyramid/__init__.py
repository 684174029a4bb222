"""Pyramid OSS-Net: point features from an encoder pyramid."""
