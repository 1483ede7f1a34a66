"""The diffusion transformer: one branch module used twice, the interactions between the two, and the joint model."""
