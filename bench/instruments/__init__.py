"""What measures: each instrument is calibrated by a test."""
