"""All rows as one HTML page that needs no network: a table, plots, and every row's environment and samples."""
