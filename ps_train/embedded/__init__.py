"""The embedded models' worlds: problem generators, tokenizer, the tiny reasoner and diffusion model."""
