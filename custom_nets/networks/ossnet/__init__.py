"""OSS-Net (BMVC 2021) and its variants."""
