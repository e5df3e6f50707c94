"""The operator's end of the control plane."""
