"""Acceptance heads of diffusion decoding: learned from what a model's own slow responses committed."""
