"""What the models are: plans, the zoo, and how a plan becomes a network."""
