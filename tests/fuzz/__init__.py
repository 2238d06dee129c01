"""Fuzzing: mutated inputs, seeded; `python -m tests.fuzz --inputs 20000` is the long run."""
