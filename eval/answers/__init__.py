"""Networks that are asked about an image, and the questions that a prompt gives."""
