"""Fuzzing of every door through which something from outside comes in: ``make fuzz SECONDS=…``.

A target is one function of bytes (:mod:`fuzz.targets`). It may raise nothing: what a door documents it catches itself,
and what was accepted it holds against what it means. Atheris drives the targets (``pip install atheris``); their corpus
stands in ``fuzz/corpus`` and is replayed by the tests, without Atheris.
"""
