"""What every predictor family builds on: prompts, features, LoRA, heads, optimisation, batches of texts."""
