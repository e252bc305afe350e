"""Menus: which option serves a question best, for how much; of schedules of diffusion decoding, say."""
