"""How good a result is: PSNR and SSIM, and the protocols by which they are compared. NumPy and PyTorch alone."""
