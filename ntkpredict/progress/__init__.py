"""How much longer: an indicator that knows the stopping rule and learns from the curve."""
