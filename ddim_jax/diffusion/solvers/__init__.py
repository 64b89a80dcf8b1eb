"""Samplers as tables of weights: one file a family, with the order of its error and its source. See table.py."""

from ddim_jax.diffusion.solvers.dpm_solver import dpmpp_2m
from ddim_jax.diffusion.solvers.first_order import ddim, ddpm, encode
from ddim_jax.diffusion.solvers.pseudo_linear import plms
from ddim_jax.diffusion.solvers.resampling import repaint
from ddim_jax.diffusion.solvers.table import StepTable
from ddim_jax.diffusion.solvers.unified import unipc

__all__ = ["StepTable", "ddim", "ddpm", "dpmpp_2m", "encode", "plms", "repaint", "unipc"]
