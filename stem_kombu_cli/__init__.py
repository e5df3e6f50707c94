"""The ``stem`` command: parse, call one method of the library, render."""
