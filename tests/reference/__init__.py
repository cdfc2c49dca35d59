"""Plain-loop references that kernels and the engine are compared with; nothing here calls the code it checks."""
