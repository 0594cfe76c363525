"""Moving states along the axis: samplers and integrators."""
