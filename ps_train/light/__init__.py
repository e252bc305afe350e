"""A predictor that reads the question's text alone: hashed n-grams, numpy at inference, no torch."""
