"""A deterministic simulation of a fleet: production code on a clock, threads, pipes and a network that a seed decides about."""
