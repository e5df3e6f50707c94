"""Result backends: task states by compare-and-set, and the roster of live workers."""
