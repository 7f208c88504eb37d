"""A text-image score for a domain that no published one knows: two heads over frozen features, trained here."""
