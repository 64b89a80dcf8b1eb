"""Denoising Diffusion Implicit Models (Song, Meng & Ermon, arXiv 2010.02502) in JAX."""
