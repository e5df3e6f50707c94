"""Tools for tests of Stem and of its plug-ins: contract suites, a proxy for faults. Nothing else may import it."""
