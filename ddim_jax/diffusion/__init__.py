"""The functional core: pure functions of arrays, which import JAX and NumPy alone."""
