"""What bench, eval and the trainer share. Nothing here knows of models."""
