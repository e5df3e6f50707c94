"""Tools for tests of applications (``environment``, ``pytest_plugin``: docs/testing.md), of Stem and of its plug-ins (contract
suites, a proxy for faults). Nothing else may import it."""
