"""The tiny world, and the paper's experiments in it: see README.md here."""
