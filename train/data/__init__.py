"""Training data: real utterances turned into declarations and calls, and generated requests."""
