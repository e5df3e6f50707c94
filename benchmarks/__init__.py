"""Measurements: ``python -m benchmarks`` or ``make bench``. Nothing here is asserted; see docs/performance.md."""
