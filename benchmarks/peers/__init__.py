"""The same no-op for other libraries' workers, each as its documentation says for many short tasks."""
